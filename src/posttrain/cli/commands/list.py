"""Every method, shipped recipe, benchmark task, suite and preset there is, with one line each.

Read from the files alone, so nothing heavy is imported. `posttrain explain TERM` tells what one of them can be set to.
"""

from __future__ import annotations

from typing import Any

from posttrain.cli.arguments import Parser
from posttrain.cli.commands import Request
from posttrain.cli.shipped import KINDS, summaries
from posttrain.core import catalog
from posttrain.core.errors import BadRequest, did_you_mean


def add_arguments(parser: Parser) -> None:
    """The family, if only one is wanted."""
    parser.add_argument("family", nargs="?", help=f"only this one: {', '.join([*catalog.FAMILIES, *KINDS])}")


def run(request: Request) -> dict[str, Any]:
    """The key `methods`: family, term and summary of each."""
    wanted = request.options.family
    families = [*catalog.FAMILIES, *KINDS]
    if wanted is not None and wanted.removesuffix("s") in KINDS:
        wanted = wanted.removesuffix("s")
    if wanted is not None and wanted not in families:
        raise BadRequest(f"There is no family '{wanted}'.", did_you_mean(wanted, families))
    return {"methods": [entry for family in families if wanted in (None, family) for entry in _entries(family)]}


def _entries(family: str) -> list[dict[str, str]]:
    if family in KINDS:
        found = summaries(family)
    else:
        found = {term: catalog.summary(family, term) for term in catalog.terms(family)}
    return [{"family": family, "term": term, "summary": summary} for term, summary in found.items()]


def show(result: dict[str, Any]) -> None:
    """Each family under its name."""
    from rich.table import Table
    from rich.text import Text

    from posttrain.cli.presentation import write

    width = max((len(entry["term"]) for entry in result["methods"]), default=0)
    for family in dict.fromkeys(entry["family"] for entry in result["methods"]):
        grid = Table.grid(padding=(0, 2))
        grid.add_column(min_width=width)
        for entry in result["methods"]:
            if entry["family"] == family:
                grid.add_row(Text(f"  {entry['term']}", "cyan"), Text(entry["summary"]))
        write(Text(family, "bold"), grid)
