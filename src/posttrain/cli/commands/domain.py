"""Which of several models predicts each text best, and which one fits them all: domain detection, model selection.

Models are compared in bits per byte, so their tokenizers may differ.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

from posttrain.cli.arguments import Parser, given
from posttrain.cli.commands import Request
from posttrain.core.errors import BadRequest


def add_arguments(parser: Parser) -> None:
    """Texts and models."""
    parser.add_argument("data", metavar="texts", help="texts, one a line: a file, hub:owner/name or builtin:NAME")
    parser.add_argument("models", nargs="+", metavar="model", help="at least two: aliases, folders, .gguf files …")
    parser.add_argument("--min-margin", type=float, metavar="BITS", help="bits per byte below which there is no domain")
    parser.add_argument("--limit", type=int, metavar="N", help="use only the first N texts")
    parser.add_argument("--out", metavar="F", type=Path, help="write texts and domains, as JSON Lines")
    parser.add_recipe_options("tokens_per_pass=4096")


def run(request: Request) -> dict[str, Any]:
    """`best`, `models` (bits per byte, interval, texts, p-value), and `domains` in the texts' order."""
    from posttrain.cli.single_steps import part
    from posttrain.core import catalog
    from posttrain.core.files import refuse_unwritable
    from posttrain.core.recipe import apply_overrides

    options = request.options
    first, *others = options.models
    if not others:
        raise BadRequest("There is only one model.", "Give at least two: posttrain domain TEXTS A B.")
    if options.out is not None:
        refuse_unwritable(options.out)
    settings = {"models": others, **given(options, "data", "min_margin", "limit")}
    values, place = part(apply_overrides(settings, options.set), options.seed)
    step = catalog.find("step", "domain").parse(values, "domain")
    step.hashes()  # missing data is refused before a model is loaded

    from posttrain.data.writing import write_rows
    from posttrain.models.sources import load, resolve

    seed = place.pop("seed", 0)
    for name in options.models:
        resolve(name)
    start = time.perf_counter()
    result, rows, _ = step.compared({name: partial(load, name, **place) for name in (first, *others)}, seed)
    if options.out is not None:
        write_rows(rows, options.out)
        result["out"] = str(options.out)
    return {**result, "seconds": time.perf_counter() - start}


def show(result: dict[str, Any]) -> None:
    """The models, the best first, then a row for each text."""
    from rich.text import Text

    from posttrain.cli.presentation import table_of, write

    rows = [
        {"text": number, "domain": each["domain"] or "undecided", "margin in bits per byte": each["domain_margin"]}
        for number, each in enumerate(result["domains"], 1)
    ]
    keys = ("bits_per_byte", "interval", "texts", "p_value")
    write(table_of([{"model": name, **{key: fit[key] for key in keys}} for name, fit in result["models"].items()]))
    write(*(Text(fit["signature"], "dim") for fit in result["models"].values()), "", table_of(rows))
