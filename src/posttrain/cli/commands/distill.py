"""Train a smaller model with the help of a larger one, and measure what the teacher was worth.

The same student is also trained without the teacher; --set baseline=false leaves that out. Whatever else can be told
goes through --set, by the recipe's names, as in --set losses.response.temperature=4: see `posttrain explain distill`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from posttrain.cli.arguments import Parser, given
from posttrain.cli.commands import Request


def add_arguments(parser: Parser) -> None:
    """Teacher, student, data, and the settings that are asked for most."""
    parser.add_argument("model", metavar="TEACHER", help="an alias, a folder, hub:owner/name or wheel:NAME")
    parser.add_argument(
        "--student",
        required=True,
        metavar="SPEC",
        help="layers:N (so many of the teacher's), layers:0,2,5, a configuration file, or a model",
    )
    parser.add_argument(
        "--data", required=True, metavar="F", help="what is learned from: a file, hub:owner/name or builtin:NAME"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the student is saved")
    parser.add_argument("--losses", metavar="METHOD", help="what is taught (default: response)")
    parser.add_argument("--objective", metavar="METHOD", help="the task (default: language_modeling)")
    parser.add_argument("--steps", type=int, metavar="N", help="optimizer steps")
    parser.add_argument("--epochs", type=float, metavar="X", help="passes over the data, instead of steps")
    parser.add_argument("--batch-size", type=int, metavar="N", help="records in one optimizer step")
    parser.add_argument("--learning-rate", type=float, metavar="X", help="base learning rate")
    parser.add_argument(
        "--validation", metavar="F", help="held-out data of the same kind (default: a tenth of the data)"
    )
    parser.add_argument("--resume", action="store_true", help="continue an interrupted call with the same --out")
    parser.add_recipe_options("losses.response.temperature=4")


def run(request: Request) -> dict[str, Any]:
    """The step's result, and `out`."""
    from posttrain.cli.single_steps import run_step

    names = ["student", "data", "losses", "objective", "steps", "epochs", "batch_size", "learning_rate", "validation"]
    return run_step("distill", given(request.options, *names), request.options, resume=request.options.resume)


def show(result: dict[str, Any]) -> None:
    """The figures without the curves."""
    from posttrain.cli.presentation import present

    present({key: value for key, value in result.items() if key not in ("history", "evaluations")})
