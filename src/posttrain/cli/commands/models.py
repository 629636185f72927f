"""List the models at hand: those with a short name, and those saved by runs, with their tags.

A tag is a name for a saved model: after --tag production=runs/quickstart/steps/09-assistant/model the reference
tag:production works wherever a model is asked for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from posttrain.cli.arguments import Parser
from posttrain.cli.commands import Request
from posttrain.core.errors import BadRequest


def add_arguments(parser: Parser) -> None:
    """Where to look, and tags to give or take."""
    parser.add_argument("folders", nargs="*", type=Path, help="where to look for saved models; by default runs")
    parser.add_argument("--tag", action="append", default=[], metavar="NAME=FOLDER", help="give a saved model a name")
    parser.add_argument("--untag", action="append", default=[], metavar="NAME", help="forget a name; the model stays")


def run(request: Request) -> dict[str, Any]:
    """`aliases` (alias, reference) and `models`: folder, name, root, made_by, created, bytes, key, tags."""
    from posttrain.pipeline.run import RUNS
    from posttrain.registry import versions

    options = request.options
    for given in options.tag:
        name, equals, folder = given.partition("=")
        if not equals:
            raise BadRequest(f"--tag {given} has no =.", "Write --tag NAME=FOLDER.")
        versions.tag(name, Path(folder))
    for name in options.untag:
        versions.untag(name)
    folders = options.folders or ([RUNS] if RUNS.is_dir() else [])
    return {
        "aliases": versions.embedded(),
        "models": [version.to_dict() for version in versions.saved_models(folders)],
    }


def show(result: dict[str, Any]) -> None:
    """Aliases, then saved models, the newest first."""
    from rich.text import Text

    from posttrain.cli.presentation import table_of, write

    write(Text("short names", "bold"), table_of(result["aliases"]), "")
    if not result["models"]:
        write("No saved models here; give the folder they lie in.")
        return
    rows = [
        {
            "name": model["name"],
            "made by": model["made_by"] or "",
            "from": model["root"] or "",
            "bytes": model["bytes"],
            "created": (model["created"] or "")[:16].replace("T", " "),
            "tags": ", ".join(model["tags"]),
            "folder": model["folder"],
        }
        for model in result["models"]
    ]
    write(Text("saved models", "bold"), table_of(rows))
