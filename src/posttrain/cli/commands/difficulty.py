"""Draw where in a text a model is surprised: a page with every token coloured, and the mean of each sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from posttrain.cli.arguments import Parser, given
from posttrain.cli.commands import Request
from posttrain.core.errors import BadRequest


def add_arguments(parser: Parser) -> None:
    """Model, text, page."""
    parser.add_argument("model", help="an alias, a folder, a .gguf file, hub:owner/name or wheel:NAME")
    parser.add_argument("text", metavar="file", help="the text: a file or builtin:NAME")
    parser.add_argument("--out", metavar="F", type=Path, required=True, help="the page, .html")
    parser.add_argument("--segments", choices=("sentence", "line", "paragraph"), help="what means are taken over")
    parser.add_argument("--window", type=int, metavar="W", help="tokens the model reads at once")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="draw only the first N tokens")
    parser.add_recipe_options("special_tokens=own")


def run(request: Request) -> dict[str, Any]:
    """`perplexity`, `bits_per_token`, `segments` with their texts and means, `out`."""
    from posttrain.cli.single_steps import part
    from posttrain.core import catalog
    from posttrain.core.files import refuse_unwritable
    from posttrain.core.recipe import apply_overrides

    options = request.options
    settings = given(options, "text", "segments", "window", "max_tokens")
    values, place = part(apply_overrides(settings, options.set), None)
    step = catalog.find("step", "difficulty").parse(values, "difficulty")
    if options.out.suffix not in (".html", ".htm"):
        raise BadRequest(f"{options.out} isn't named .html, which is what is written.", "Choose another --out.")
    refuse_unwritable(options.out)
    step.hashes()  # a missing text is refused before the model is loaded

    from posttrain.models.sources import load

    place.pop("seed", None)  # nothing is drawn at random
    found = step.drawn(load(options.model, **place), options.out, options.model)
    return {**found.to_dict(), "out": str(options.out)}


def show(result: dict[str, Any]) -> None:
    """The figures and the hardest segments."""
    from rich.text import Text

    from posttrain.cli.presentation import present, table_of, write

    present({key: value for key, value in result.items() if key != "segments"})
    scored = [each for each in result["segments"] if each["bits_per_token"] is not None]
    hardest = sorted(scored, key=lambda each: -each["bits_per_token"])[:5]
    rows = [{"bits_per_token": each["bits_per_token"], "text": " ".join(each["text"].split())} for each in hardest]
    write("", Text("hardest", "bold"), table_of(rows))
