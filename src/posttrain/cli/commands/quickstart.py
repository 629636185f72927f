"""The whole life of a small model in minutes: measure, fine-tune, merge, quantize, compare, report.

Runs the shipped recipe `quickstart` on SmolLM2-135M-Instruct, which comes from the package index; needs no GPU. Steps
that are done already are taken from the last run in the same folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from posttrain.cli.arguments import Parser, recipe_overrides
from posttrain.cli.commands import Request

DEFAULT_OUT = Path("runs/quickstart")


def add_arguments(parser: Parser) -> None:
    """Length and folder."""
    parser.add_argument("--fast", action="store_true", help="fewer training steps and shorter texts")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, metavar="DIR", help="folder of the run")
    parser.add_argument("--resume", action="store_true", help="go on where an interrupted run stopped")
    parser.add_recipe_options("train.steps=20")


def run(request: Request) -> dict[str, Any]:
    """The run's summary: `steps`, `report`, `out` and more."""
    from posttrain.pipeline.run import run_recipe

    options = request.options
    overrides = recipe_overrides(options)
    return run_recipe("quickstart", out=options.out, overrides=overrides, resume=options.resume, fast=options.fast)


def show(result: dict[str, Any]) -> None:
    """As `posttrain run` shows it."""
    from posttrain.cli.presentation import present_run

    present_run(result)
