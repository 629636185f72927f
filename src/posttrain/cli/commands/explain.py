"""One method, benchmark task, suite, preset or recipe in full: what it is, and what it is made of.

Of a method every setting with its type, default and meaning; of a task how it is asked, its metrics, and where its
data lies. A file of your own, NAME.yaml, is explained with --family task, suite, preset or recipe.
"""

from __future__ import annotations

import inspect
from typing import Any

from posttrain.cli.arguments import Parser
from posttrain.cli.commands import Request
from posttrain.cli.shipped import KINDS, explained, summaries
from posttrain.cli.shipped import show as show_shipped
from posttrain.core import catalog
from posttrain.core.errors import BadRequest, did_you_mean


def add_arguments(parser: Parser) -> None:
    """The term and, where several families have it, the family."""
    parser.add_argument("term", help="a name, as `posttrain list` shows it, or a task's member (mmlu_anatomy)")
    parser.add_argument("--family", help=f"only from this family: {', '.join([*catalog.FAMILIES, *KINDS])}")


def run(request: Request) -> dict[str, Any]:
    """The key `methods`: one entry a family that has the term."""
    term, family = request.options.term, request.options.family
    of_ones_own = "class" if ":" in term else "file" if term.endswith((".yaml", ".yml")) else None
    if of_ones_own is not None:
        if family is None:
            raise BadRequest(f"'{term}' is a {of_ones_own} of your own.", "Say with --family what it is.")
        return {"methods": [explained(family, term) if family in KINDS else _entry(family, term)]}
    families = [*catalog.FAMILIES, *KINDS] if family is None else [family]
    known = {each: [*summaries(each)] if each in KINDS else catalog.terms(each) for each in families}
    name = term.replace("-", "_").lower()
    found = [explained(each, name) if each in KINDS else _entry(each, name) for each in known if name in known[each]]
    if not found and "task" in known and (member := _member(term)) is not None:
        found = [member]
    if not found:
        if name in catalog.FAMILIES or name in KINDS:
            raise BadRequest(f"'{term}' is a family, not a method.", f"posttrain list {name} shows its methods.")
        everything = {each for terms in known.values() for each in terms}
        raise BadRequest(f"There is no method '{term}'.", did_you_mean(term, everything))
    return {"methods": found}


def _member(term: str) -> dict[str, Any] | None:
    """A member or category of a task, whose names stand in no list."""
    try:
        return explained("task", term)
    except BadRequest:
        return None


def _entry(family: str, term: str) -> dict[str, Any]:
    from posttrain.cli.setting_types import settings_of

    method = catalog.find(family, term)
    module = inspect.getmodule(method)
    return {
        "family": family,
        "term": term,
        "class": f"{method.__module__}:{method.__name__}",
        "summary": catalog.summary(family, term) if ":" not in term else "",
        "description": inspect.cleandoc(module.__doc__ or "") if module else "",
        "docstring": inspect.cleandoc(method.__doc__ or ""),
        "settings": settings_of(method),
    }


def show(result: dict[str, Any]) -> None:
    """A heading, the texts, and a table of settings."""
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    from posttrain.cli.presentation import write

    for entry in result["methods"]:
        if entry["family"] in KINDS:
            show_shipped(entry)
            continue
        write(Text.assemble((entry["term"], "bold cyan"), (f"  {entry['family']}", "dim")))
        for text in (entry["description"], entry["docstring"]):
            write(Padding(Text(text), (0, 0, 1, 2)))
        grid = Table(box=None, padding=(0, 2, 0, 2), header_style="bold")
        for column in ("setting", "type", "default", "meaning"):
            grid.add_column(column, overflow="fold")
        for setting in entry["settings"]:
            default = "required" if setting["required"] else _shown(setting["default"])
            grid.add_row(*map(Text, (setting["name"], setting["type"], default, setting["help"])))
        write(grid if entry["settings"] else Text("  No settings."), "")


def _shown(default: Any) -> str:
    if isinstance(default, dict) and len(default) == 1:  # a method's block: its name is enough
        return str(next(iter(default)))
    if default is None or isinstance(default, bool):
        return str(default).lower()
    return str(default)
