"""Run a recipe's steps in order, skip what is done already, and write a report.

RECIPE is a YAML file or the name of a shipped recipe (`posttrain list recipe`). `--resume` continues an interrupted
run: the one in --out, or without --out the newest under runs/; without RECIPE the recipe is read from there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from posttrain.cli.arguments import Parser, recipe_overrides
from posttrain.cli.commands import Request
from posttrain.core.errors import BadRequest


def add_arguments(parser: Parser) -> None:
    """The recipe and the run's folder."""
    parser.add_argument("recipe", nargs="?", help="a recipe file or a shipped recipe's name")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the run (default: runs/NAME)")
    parser.add_argument("--resume", action="store_true", help="go on where an interrupted run stopped")
    parser.add_recipe_options("train.adapt.lora.rank=8")


def run(request: Request) -> dict[str, Any]:
    """The run's summary: `steps`, `report`, `out` and more."""
    from posttrain.pipeline.run import run_recipe

    options = request.options
    if options.recipe is None and not options.resume:
        raise BadRequest("No recipe is given.", "Name one, or continue a run with --resume.")
    return run_recipe(options.recipe, out=options.out, overrides=recipe_overrides(options), resume=options.resume)


def show(result: dict[str, Any]) -> None:
    """The steps with their headline figures, and where the report lies."""
    from posttrain.cli.presentation import present_run

    present_run(result)
