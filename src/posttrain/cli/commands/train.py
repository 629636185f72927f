"""Fine-tune a model on a data set, through an adapter or whole, and save the outcome.

Whatever else training can be told goes through --set, by the recipe's names: see `posttrain explain train`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from posttrain.cli.arguments import Parser, given
from posttrain.cli.commands import Request


def add_arguments(parser: Parser) -> None:
    """Model, data, and the settings that are asked for most."""
    parser.add_argument("model", help="an alias, a folder, a .gguf file, hub:owner/name or wheel:NAME")
    parser.add_argument(
        "--data", required=True, metavar="F", help="training data: a file, hub:owner/name or builtin:NAME"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the trained model is saved")
    parser.add_argument("--adapt", metavar="METHOD", help="what is trained (default: lora)")
    parser.add_argument("--objective", metavar="METHOD", help="the loss (default: language_modeling)")
    parser.add_argument("--steps", type=int, metavar="N", help="optimizer steps")
    parser.add_argument("--epochs", type=float, metavar="X", help="passes over the data, instead of steps")
    parser.add_argument("--batch-size", type=int, metavar="N", help="records in one optimizer step")
    parser.add_argument("--learning-rate", type=float, metavar="X", help="base learning rate")
    parser.add_argument("--validation", metavar="F", help="held-out data of the same kind")
    parser.add_argument("--resume", action="store_true", help="continue an interrupted call with the same --out")
    parser.add_recipe_options("adapt.lora.rank=8")


def run(request: Request) -> dict[str, Any]:
    """The training's result, and `out`."""
    from posttrain.cli.single_steps import run_step

    names = ("data", "adapt", "objective", "steps", "epochs", "batch_size", "learning_rate", "validation")
    return run_step("train", given(request.options, *names), request.options, resume=request.options.resume)


def show(result: dict[str, Any]) -> None:
    """The figures without the curves."""
    from posttrain.cli.presentation import present

    present({key: value for key, value in result.items() if key not in ("history", "evaluations")})
