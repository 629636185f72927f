"""Every method, shipped recipe and benchmark task there is, with one line each.

Read from the files alone, so nothing heavy is imported. `posttrain explain TERM` tells what one of them can be set to.
"""

from __future__ import annotations

from typing import Any

from posttrain.cli.arguments import Parser
from posttrain.cli.commands import Request
from posttrain.core import catalog
from posttrain.core.errors import BadRequest, did_you_mean

_RECIPE = "recipe"
_TASK = "task"


def add_arguments(parser: Parser) -> None:
    """The family, if only one is wanted."""
    parser.add_argument("family", nargs="?", help=f"only this one: {', '.join([*catalog.FAMILIES, _RECIPE, _TASK])}")


def run(request: Request) -> dict[str, Any]:
    """The key `methods`: family, term and summary of each."""
    wanted = request.options.family
    families = [*catalog.FAMILIES, _RECIPE, _TASK]
    if wanted in (f"{_RECIPE}s", f"{_TASK}s"):
        wanted = wanted[:-1]
    if wanted is not None and wanted not in families:
        raise BadRequest(f"There is no family '{wanted}'.", did_you_mean(wanted, families))
    return {"methods": [entry for family in families if wanted in (None, family) for entry in _entries(family)]}


def _entries(family: str) -> list[dict[str, str]]:
    if family == _RECIPE:
        summaries = _recipes()
    elif family == _TASK:
        summaries = _tasks()
    else:
        summaries = {term: catalog.summary(family, term) for term in catalog.terms(family)}
    return [{"family": family, "term": term, "summary": summary} for term, summary in summaries.items()]


def _recipes() -> dict[str, str]:
    from posttrain.core import recipe
    from posttrain.pipeline.run import SHIPPED, shipped_recipes

    files = {name: SHIPPED / f"{name}.yaml" for name in shipped_recipes()}
    return {name: " ".join(str(recipe.read(file).get("description", "")).split()) for name, file in files.items()}


def _tasks() -> dict[str, str]:
    from posttrain.core import recipe
    from posttrain.core.catalog import family_folder

    files = sorted((family_folder("task_type").parent / "tasks").glob("*.yaml"))
    return {file.stem: str(recipe.read(file)["summary"]) for file in files}


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
