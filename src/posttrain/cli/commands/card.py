"""Print or write a model's card: what it is, how it was made, its data, limits and energy, as Markdown.

MODEL is a saved model's folder or tag:NAME. A recipe's `card` step adds what the run measured.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from posttrain.cli.arguments import Parser
from posttrain.cli.commands import Request


def add_arguments(parser: Parser) -> None:
    """Model, and where to write."""
    parser.add_argument("model", help="a saved model's folder, or tag:NAME")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write it there instead of printing it")


def run(request: Request) -> dict[str, Any]:
    """`card`: the Markdown text; `out` where it was written."""
    from posttrain.core import files
    from posttrain.registry.model_card import model_card
    from posttrain.registry.versions import read_card

    text = model_card(read_card(request.options.model))
    if request.options.out is None:
        return {"card": text}
    files.write_text(request.options.out, text)
    return {"card": text, "out": str(request.options.out)}


def show(result: dict[str, Any]) -> None:
    """The text, or where it lies."""
    print(f"Written: {result['out']}" if "out" in result else result["card"], end="\n" if "out" in result else "")
