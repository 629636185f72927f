"""Find the way of decoding that is best for a use, judged by a metric or a reward on its own prompts.

Points of a space of searches and their settings compete in a tournament; the winner is recommended only if it is better
than the default on prompts that no candidate has seen. What is recommended can be saved with --save, and then
`posttrain generate --preset FILE` uses it.
"""

from __future__ import annotations

from typing import Any

from posttrain.cli.arguments import Parser, given
from posttrain.cli.commands import Request


def add_arguments(parser: Parser) -> None:
    """Model, prompts, what judges, and the space."""
    parser.add_argument("model", help="an alias, a folder, a .gguf file, hub:owner/name or wheel:NAME")
    parser.add_argument("--data", metavar="F", help="questions of the use, with answers for metrics that need them")
    parser.add_argument("--metric", metavar="NAME", help="a metric of texts that judges, as rouge")
    parser.add_argument("--reward", metavar="MODEL", help="a reward model's folder, or module:function, that judges")
    parser.add_argument("--space", metavar="F", help="a YAML file of searches and processors with lists of values")
    parser.add_argument("--candidates", type=int, metavar="N", help="how many points of the space are tried")
    parser.add_argument("--limit", type=int, metavar="N", help="use only the first N questions")
    parser.add_argument("--max-new-tokens", type=int, metavar="N", help="most tokens of an answer")
    parser.add_argument("--save", metavar="F", help="write what is recommended to this YAML file")
    parser.add_recipe_options("held_out=0.3")


def run(request: Request) -> dict[str, Any]:
    """`candidates` with their values, `winner`, its `comparison` with the default, `recommended` and the `preset`."""
    from posttrain.cli.single_steps import run_step

    names = ("data", "metric", "reward", "space", "candidates", "limit", "max_new_tokens", "save")
    return run_step("tune_decoding", given(request.options, *names), request.options)


def show(result: dict[str, Any]) -> None:
    """The tournament, the comparison, and the preset."""
    from rich.text import Text

    from posttrain.cli.presentation import table_of, write
    from posttrain.core.recipe import dump

    write(table_of(result["candidates"]), "")
    if (compared := result["comparison"]) is not None:
        sure = "too few prompts to test" if compared["p_value"] is None else f"p = {compared['p_value']:.3f}"
        write(
            Text(
                f"On {compared['prompts']} prompts that no candidate had seen: {compared['winner']:.4g} by "
                f"{result['judged_by']}, the default {compared['default']:.4g} ({sure})."
            )
        )
    write(Text.assemble("Recommended: ", (result["recommended"], "bold green"), "."), "")
    print(dump(result["preset"]).rstrip())
