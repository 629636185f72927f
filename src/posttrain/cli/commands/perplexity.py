"""Perplexity of a model on a text, by a sliding window, with a confidence interval and a signature."""

from __future__ import annotations

from typing import Any

from posttrain.cli.arguments import Parser, given
from posttrain.cli.commands import Request


def add_arguments(parser: Parser) -> None:
    """Model, text and window."""
    parser.add_argument("model", help="an alias, a folder, a .gguf file, hub:owner/name or wheel:NAME")
    parser.add_argument("file", help="the text: a file or builtin:NAME")
    parser.add_argument("--window", type=int, metavar="W", help="tokens the model reads at once")
    parser.add_argument("--stride", type=int, metavar="S", help="tokens by which the window moves")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="use only the first N tokens")
    parser.add_argument("--batch-size", type=int, metavar="B", help="windows at once; never changes the value")
    parser.add_recipe_options("stride=256")


def run(request: Request) -> dict[str, Any]:
    """`perplexity`, its parts, `interval`, `signature` and the `seconds` that measuring took."""
    from posttrain.cli.single_steps import measure

    options = request.options
    settings = {"text": options.file, **given(options, "window", "stride", "max_tokens", "batch_size")}
    return measure("perplexity", settings, options)
