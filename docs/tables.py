"""Fills the tables of the documents that are read off the code, so that nobody copies a setting by hand.

    python docs/tables.py

rewrites what stands between ``<!-- table: NAME -->`` and ``<!-- end of table -->`` in every page; `tests/test_docs.py`
checks that the pages are current. A table is a function below, called by its name.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from posttrain.cli import commands as command_line
from posttrain.cli.setting_types import settings_of
from posttrain.core import catalog, recipe
from posttrain.decode.presets import presets as named_presets
from posttrain.pipeline import run
from posttrain.pipeline.steps import Step

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

_PLACE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end of table -->)", re.DOTALL)


def families() -> str:
    """Each family and its methods."""
    rows = []
    for family in catalog.FAMILIES:
        page = "docs/recipes.md" if family == "step" else "docs/methods.md"
        # A method's heading is ``### family: term``, which GitHub gives the anchor family-term.
        methods = ", ".join(f"[`{term}`]({page}#{family}-{term})" for term in catalog.terms(family))
        rows.append([f"`{family}`", methods])
    return _table(["family", "methods"], rows)


def recipes() -> str:
    """Each shipped recipe."""
    found = {name: recipe.read(run.SHIPPED / f"{name}.yaml") for name in run.shipped_recipes()}
    return _table(["recipe", "what it shows"], [[f"`{n}`", _line(r["description"])] for n, r in found.items()])


def commands() -> str:
    """Each command with its line in ``posttrain --help``."""
    return _table(["command", "what it does"], [[f"`{n}`", command_line.help_line(n)] for n in command_line.names()])


def presets() -> str:
    """Each preset of decoding with the range of temperatures that is usual."""
    rows = []
    for name, preset in named_presets().items():
        low, high = preset.range
        between = f"{low:g}" if low == high else f"{low:g} and more" if high is None else f"{low:g} to {high:g}"
        rows.append([f"`{name}`", between, f"`{_flow(preset.search)}`", preset.use])
    return _table(["preset", "usual temperature", "search", "for"], rows)


def frame() -> str:
    """The keys of a recipe."""
    return _settings(recipe.Recipe)


def every_step() -> str:
    """The keys that every step has."""
    return _settings(Step)


def steps() -> str:
    """Each step with its settings."""
    return "\n\n".join(_method("step", term, without=Step.model_fields) for term in catalog.terms("step"))


def methods() -> str:
    """Each family but the steps, each of its methods with its settings."""
    return "\n\n".join(
        f"## {family}\n\n" + "\n\n".join(_method(family, term) for term in catalog.terms(family))
        for family in catalog.FAMILIES
        if family != "step"
    )


TABLES: dict[str, Callable[[], str]] = {
    table.__name__: table for table in (families, recipes, commands, presets, frame, every_step, steps, methods)
}


def filled(text: str) -> str:
    """A page's text with its tables made anew."""
    return _PLACE.sub(lambda place: f"{place[1]}\n{TABLES[place[2]]()}\n\n{place[3]}", text)


def _method(family: str, term: str, without: Collection[str] = ()) -> str:
    summary = _line(catalog.summary(family, term)).removeprefix(f"{term}: ")
    table = _settings(catalog.find(family, term), without)
    return f"### {family}: {term}\n\n{summary[:1].upper()}{summary[1:]}\n\n{table}"


def _settings(cls: type[BaseModel], without: Collection[str] = ()) -> str:
    rows = list(_rows(cls, without))
    return _table(["setting", "type", "default", "meaning"], rows) if rows else "No settings."


def _rows(cls: type[BaseModel], without: Collection[str], prefix: str = "") -> Iterator[list[str]]:
    """One row a setting; settings that hold further ones are followed by these, by their full path."""
    for (name, field), setting in zip(cls.model_fields.items(), settings_of(cls)):
        if name in without:
            continue
        inner = _inner(field.annotation)
        path = f"{prefix}{setting['name']}"
        if inner is None:
            default = "required" if setting["required"] else f"`{_shown(setting['default'])}`"
            yield [f"`{path}`", setting["type"], default, setting["help"]]
        else:
            yield [f"`{path}`", "settings", "none" if setting["default"] is None else "", setting["help"]]
            yield from _rows(inner, (), f"{path}.")


def _inner(annotation: Any) -> type[BaseModel] | None:
    """The settings class that a field holds, alone or beside None."""
    for kind in (annotation, *typing.get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def _shown(default: Any) -> str:
    """A default as it would be written in a recipe, on one line."""
    if isinstance(default, dict) and len(default) == 1 and not any(default.values()):  # a method without settings
        return str(next(iter(default)))
    return _flow(default)


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value) or '""'


def _line(text: str) -> str:
    """One line, with Markdown's code marks."""
    return " ".join(text.split()).replace("``", "`")


def _table(columns: list[str], rows: list[list[str]]) -> str:
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [columns, ["---"] * len(columns), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    for page in PAGES:
        before = page.read_text(encoding="utf-8")
        if (after := filled(before)) != before:
            page.write_text(after, encoding="utf-8")
            print(f"rewritten: {page.relative_to(ROOT)}")
