"""Compare ways of decoding on the same prompts: quality, variety, repetition, length and speed.

The first method is the one that the others are compared with. Which way is the best depends on the use; --prefer names
a figure and a direction, and then one is recommended.
"""

from __future__ import annotations

from typing import Any

from posttrain.cli.arguments import Parser, given
from posttrain.cli.commands import Request
from posttrain.core.errors import BadRequest


def add_arguments(parser: Parser) -> None:
    """Model, prompts and methods."""
    parser.add_argument("model", help="an alias, a folder, a .gguf file, hub:owner/name or wheel:NAME")
    parser.add_argument("--prompts", metavar="F", help="prompts: a data set, or one a line")
    parser.add_argument(
        "--methods", metavar="M", help="names with commas between, or a YAML file of search and process"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="use only the first N prompts")
    parser.add_argument("--samples", type=int, metavar="N", help="answers to each prompt")
    parser.add_argument("--max-new-tokens", type=int, metavar="N", help="most tokens of an answer")
    parser.add_argument(
        "--judge", metavar="MODEL", help="take perplexity under this model, not under the one that writes"
    )
    parser.add_argument("--prefer", metavar="FIGURE=higher", help="recommend by this figure, =higher or =lower")
    parser.add_recipe_options("chat=false")


def run(request: Request) -> dict[str, Any]:
    """`methods`, each with its figures, `intervals` and `differences` from the first; `answers`; `recommended`."""
    from posttrain.cli.single_steps import run_step

    options = request.options
    settings = given(options, "prompts", "methods", "limit", "samples", "max_new_tokens", "judge")
    if options.prefer is not None:
        figure, _, direction = options.prefer.partition("=")
        if direction not in ("higher", "lower"):
            raise BadRequest(
                f"--prefer {options.prefer} names no direction.", f"Write --prefer {figure}=higher or =lower."
            )
        settings["prefer"] = {figure.replace("-", "_"): direction}
    return run_step("compare_decoding", settings, options)


def show(result: dict[str, Any]) -> None:
    """Figures with a mark where they differ from the first method's, the first answers, and the recommendation."""
    from rich.text import Text

    from posttrain.cli.presentation import table_of, write

    hidden = ("intervals", "differences")
    rows = [{key: value for key, value in row.items() if key not in hidden} for row in result["methods"]]
    write(table_of(rows), "")
    differing = [
        f"{row['method']}: {', '.join(key for key, found in row['differences'].items() if found['p_value'] < 0.05)}"
        for row in result["methods"]
        if row["differences"] and any(found["p_value"] < 0.05 for found in row["differences"].values())
    ]
    if differing:
        write(Text(f"differ from {result['compared_with']} (p < 0.05)", "bold"), *map(Text, differing), "")
    for answer in result["answers"][:2]:
        write(Text(answer["prompt"], "bold"))
        for row in rows:
            write(Text.assemble((f"{row['method']}  ", "cyan"), " ".join(answer[row["method"]].split())))
        write("")
    if recommended := result["recommended"]:
        write(Text.assemble("Recommended: ", (recommended["method"], "bold green"), f", {recommended['rule']}."))
