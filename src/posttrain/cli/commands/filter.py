"""Keep or drop texts by how well a model predicts them, or flag those that are unlike a reference set.

Give at least one of --max-perplexity, --between, --keep and --reference; a text is kept if it passes all that are
given. With --reference each text also gets a robust z-score and a quality between 0 and 1. An interrupted call with the
same arguments goes on where it stopped.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from posttrain.cli.arguments import Parser, given
from posttrain.cli.commands import Request
from posttrain.core.errors import BadRequest


def add_arguments(parser: Parser) -> None:
    """Model, data, rules and the file to write."""
    parser.add_argument("model", help="an alias, a folder, a .gguf file, hub:owner/name or wheel:NAME")
    parser.add_argument("data", help="texts, or prompts with answers: a file, hub:owner/name or builtin:NAME")
    parser.add_argument("--out", metavar="F", type=Path, required=True, help="the file for them, .jsonl")
    parser.add_argument("--max-perplexity", type=float, metavar="N", help="keep texts up to this perplexity a token")
    parser.add_argument("--between", type=float, nargs=2, metavar=("LO", "HI"), help="keep texts in this band")
    parser.add_argument("--keep", type=float, metavar="SHARE", help="keep this share, the lowest: 0.8")
    parser.add_argument("--reference", metavar="F", help="good texts; drop what is unlike them in either direction")
    parser.add_argument("--max-z", type=float, metavar="Z", help="how many robust standard deviations are unlike")
    parser.add_argument("--flag", action="store_const", const=True, help="drop nothing; mark texts with kept and why")
    parser.add_argument("--limit", type=int, metavar="N", help="use only the first N texts")
    parser.add_recipe_options("by=bits_per_byte")


def run(request: Request) -> dict[str, Any]:
    """`texts`, `kept`, `dropped`, `kept_share`, `dropped_by`, quantiles of `perplexity`, `signature`, `out`."""
    from posttrain.cli.single_steps import part
    from posttrain.core import catalog
    from posttrain.core.files import refuse_unwritable
    from posttrain.core.recipe import apply_overrides

    options = request.options
    names = ("data", "max_perplexity", "between", "keep", "reference", "max_z", "flag", "limit")
    values, place = part(apply_overrides(given(options, *names), options.set), None)
    step = catalog.find("step", "filter").parse(values, "filter")
    out: Path = options.out
    if out.suffix != ".jsonl":
        raise BadRequest(f"{out} isn't named .jsonl, which is what is written.", "Choose another --out.")
    refuse_unwritable(out)
    if out.exists() and Path(options.data).exists() and out.samefile(options.data):
        raise BadRequest(f"{out} is the data itself.", "Choose another --out.")
    step.hashes()  # missing data and a missing rule are refused before the model is loaded

    from posttrain.models.sources import load

    place.pop("seed", None)  # nothing is drawn
    model = load(options.model, **place)
    start = time.perf_counter()
    result, _, _ = step.filtered(model, out, out.parent, prefix=f".{out.name}.")
    return {**result, "seconds": time.perf_counter() - start, "out": str(out)}
