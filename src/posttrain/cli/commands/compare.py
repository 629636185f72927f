"""Compare models: how they were made, and their quality, size, speed and answers, measured alike.

Give two models or more. The first difference of their histories, settings and data is read off their cards.
"""

from __future__ import annotations

from typing import Any

from posttrain.cli.arguments import Parser
from posttrain.cli.commands import Request
from posttrain.core.errors import BadRequest


def add_arguments(parser: Parser) -> None:
    """Models, text and length."""
    parser.add_argument("models", nargs="+", metavar="model", help="folders, aliases, tag:NAME, hub:owner/name …")
    parser.add_argument("--text", metavar="F", default="builtin:prose", help="text on which perplexity is measured")
    parser.add_argument("--max-tokens", type=int, metavar="N", default=2048, help="how much of the text is read")
    parser.add_argument("--prompts", metavar="F", help="prompts they all answer: a file or builtin:NAME")
    parser.add_argument("--cards-only", action="store_true", help="compare how they were made; measure nothing")
    parser.add_recipe_options("max_new_tokens=32")


def run(request: Request) -> dict[str, Any]:
    """`differences` (what, first, second) of the first two, `common_ancestor`, and what the `compare` step measured."""
    from posttrain.registry.comparison import common_ancestor, differences
    from posttrain.registry.versions import read_card

    options = request.options
    if len(options.models) < 2:
        raise BadRequest("There is only one model.", "Give at least two: posttrain compare A B.")
    if len(set(options.models)) < len(options.models):
        raise BadRequest(f"A model is named twice: {', '.join(options.models)}.", "Name each once.")
    first, second = (read_card(model) for model in options.models[:2])
    found: dict[str, Any] = {
        "common_ancestor": common_ancestor(first, second),
        "differences": [difference.to_dict() for difference in differences(first, second)],
    }
    if options.cards_only:
        return found

    from posttrain.cli.single_steps import run_step

    *others, options.model = options.models
    settings: dict[str, Any] = {
        "with": others,
        "on": [{"perplexity": {"text": options.text, "max_tokens": options.max_tokens}}, "size", "speed", "samples"],
    }
    if options.prompts is not None:
        settings["prompts"] = options.prompts
    return {**found, **run_step("compare", settings, options)}


def show(result: dict[str, Any]) -> None:
    """Differences, figures side by side, then answers."""
    from rich.text import Text

    from posttrain.cli.presentation import table_of, write
    from posttrain.pipeline.quantities import show as told

    if result["common_ancestor"]:
        write(f"Both were made from {result['common_ancestor']}.", "")
    if result["differences"]:
        rows = [{key: told(value) for key, value in row.items()} for row in result["differences"]]
        write(Text("how they differ", "bold"), table_of(rows), "")
    if "models" in result:
        measured = [{"model": name, **_plain(row)} for name, row in result["models"].items()]
        write(Text("side by side", "bold"), table_of(measured))
        for metric, names in result["measured_differently"].items():
            write(Text(f"{metric}: measured differently ({', '.join(names)}), so don't compare it", "yellow"))
        if plain := result.get("asked_without_chat_template"):
            write("", Text(f"asked without a chat template, which they lack: {', '.join(plain)}", "yellow"))
        for kind in ("greedy_answers", "sampled_answers"):
            for row in result.get(kind, []):
                write("", Text(row["prompt"], "bold"), *(f"{name}: {row[name]}" for name in result["models"]))


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if not key.endswith("_interval")}
