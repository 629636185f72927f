"""Perplexity of a model on a text, by a sliding window, with a confidence interval and a signature.

--conditional counts answers given their prompts, or targets given their sources; --spans what records mark and
--pattern what a regular expression finds; --per-text takes texts as the items instead of tokens. A masked model has no
perplexity; --pseudo gives its pseudo-perplexity, each token masked in turn.
"""

from __future__ import annotations

import argparse
from typing import Any

from posttrain.cli.arguments import Parser, given
from posttrain.cli.commands import Request
from posttrain.core.errors import BadRequest


def add_arguments(parser: Parser) -> None:
    """Model, text, what counts, and window."""
    parser.add_argument("model", help="an alias, a folder, a .gguf file, hub:owner/name or wheel:NAME")
    parser.add_argument("file", help="the text or data set: a file or builtin:NAME")
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--conditional", action="store_true", help="only answers count, given their prompts")
    kinds.add_argument("--spans", action="store_true", help="only the spans count that the records mark")
    kinds.add_argument("--pattern", metavar="REGEX", help="only what this regular expression finds counts")
    kinds.add_argument("--per-text", action="store_true", help="the mean over texts, each by its own length")
    kinds.add_argument("--pseudo", action="store_true", help="of a masked model: each token masked in turn")
    parser.add_argument("--window", type=int, metavar="W", help="tokens the model reads at once")
    parser.add_argument("--stride", type=int, metavar="S", help="tokens by which the window moves")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="use only the first N tokens")
    parser.add_argument("--batch-size", type=int, metavar="B", help="windows at once; never changes the value")
    parser.add_argument("--dtype", metavar="TYPE", help="float32 (as usual), bfloat16 or float16")
    parser.add_argument("--against-float32", action="store_true", help="also measure in float32, and tell the error")
    parser.add_recipe_options("stride=256")


def run(request: Request) -> dict[str, Any]:
    """`perplexity` or the other kind's name, its parts, `interval`, `signature` and the `seconds` that it took.

    With --against-float32 also `float32`, the same measured in float32, and `relative_error`.
    """
    from posttrain.cli.single_steps import measure

    options = request.options
    metric, settings = _metric(options)
    settings |= given(options, "window", "stride", "max_tokens", "batch_size")
    if not options.against_float32:
        return measure(metric, settings, _in(options.dtype, options))
    if options.dtype in (None, "float32"):
        raise BadRequest("--against-float32 compares another precision with it.", "Give one: --dtype bfloat16.")
    found = measure(metric, settings, _in(options.dtype, options))
    exact = measure(metric, settings, _in("float32", options))
    told = {key: exact[key] for key in ("value", "interval", "signature", "seconds")}
    return {**found, "float32": told, "relative_error": found["value"] / exact["value"] - 1}


def _metric(options: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """The metric's name and where it gets its text."""
    if options.conditional:
        return "conditional_perplexity", {"data": options.file}
    if options.spans or options.pattern is not None:
        return "span_perplexity", {"text": options.file, **given(options, "pattern")}
    if options.per_text:
        return "sequence_perplexity", {"text": options.file}
    return "pseudo_perplexity" if options.pseudo else "perplexity", {"text": options.file}


def _in(dtype: str | None, options: argparse.Namespace) -> argparse.Namespace:
    """The options with a precision of their own."""
    extra = [] if dtype is None else [f"dtype={dtype}"]
    return argparse.Namespace(**{**vars(options), "set": [*options.set, *extra]})
