"""Align a model with preferences or rewards, or train a reward model, and save the outcome.

Whatever else can be told goes through --set, by the recipe's names, as in --set objective.ppo.clip=0.1: see `posttrain
explain align`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from posttrain.cli.arguments import Parser, given
from posttrain.cli.commands import Request


def add_arguments(parser: Parser) -> None:
    """Model, objective, data, and the settings that are asked for most."""
    parser.add_argument("model", help="an alias, a folder, a .gguf file, hub:owner/name or wheel:NAME")
    parser.add_argument("--objective", required=True, metavar="METHOD", help="how, as in `posttrain list align`")
    parser.add_argument("--data", metavar="F", help="preference pairs or prompts (default: built-in ones)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the outcome is saved")
    parser.add_argument("--reward", metavar="R", help="scores answers: folder of a reward model, or module:function")
    parser.add_argument("--adapt", metavar="METHOD", help="what is trained (default: lora)")
    parser.add_argument("--episodes", type=int, metavar="N", help="sampled answers, or pairs, to learn from")
    parser.add_argument("--steps", type=int, metavar="N", help="optimizer steps, instead of episodes")
    parser.add_argument("--batch-size", type=int, metavar="N", help="answers or pairs in one optimizer step")
    parser.add_argument("--learning-rate", type=float, metavar="X", help="base learning rate")
    parser.add_argument("--max-new-tokens", type=int, metavar="N", help="most tokens of a sampled answer")
    parser.add_argument("--validation", metavar="F", help="held-out preference pairs")
    parser.add_argument("--resume", action="store_true", help="continue an interrupted call with the same --out")
    parser.add_recipe_options("adapt.lora.rank=8")


def run(request: Request) -> dict[str, Any]:
    """The step's result, and `out`."""
    from posttrain.cli.single_steps import run_step

    names = ["objective", "data", "reward", "adapt", "episodes", "steps", "batch_size", "learning_rate"]
    settings = given(request.options, *names, "max_new_tokens", "validation")
    return run_step("align", settings, request.options, resume=request.options.resume)


def show(result: dict[str, Any]) -> None:
    """The figures without the curves."""
    from posttrain.cli.presentation import present

    present({key: value for key, value in result.items() if key not in ("history", "rollouts")})
