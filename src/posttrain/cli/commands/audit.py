"""What a data set would teach a model: rows, tokens, which tokens carry loss, which rows would be cut."""

from __future__ import annotations

from typing import Any

from posttrain.cli.arguments import Parser, given
from posttrain.cli.commands import Request


def add_arguments(parser: Parser) -> None:
    """Data, model, and how records become tokens."""
    parser.add_argument("data", help="the data set: a file, hub:owner/name or builtin:NAME")
    parser.add_argument("model", help="the model whose tokenizer and chat template are used")
    parser.add_argument("--max-length", type=int, metavar="N", help="most tokens a record may have")
    parser.add_argument("--chat", action="store_const", const=True, help="render prompts through the chat template")
    parser.add_recipe_options("train_on=all")


def run(request: Request) -> dict[str, Any]:
    """The audit; the key `sample` holds the first record with the tokens that carry loss in ⟦…⟧."""
    from posttrain.cli.single_steps import run_step

    return run_step("audit", given(request.options, "data", "max_length", "chat"), request.options)


def show(result: dict[str, Any]) -> None:
    """The figures, then the sample, with colour for the tokens that carry loss."""
    import sys

    from rich.text import Text

    from posttrain.cli.presentation import present, write

    present({key: value for key, value in result.items() if key != "sample" and value not in (None, [])})
    write("", Text("first record; what carries loss is marked", "bold"))
    write(_coloured(result["sample"]) if sys.stdout.isatty() else Text(result["sample"]))


def _coloured(sample: str) -> Any:
    from rich.text import Text

    text = Text()
    for number, piece in enumerate(sample.split("⟦")):
        learned, mark, rest = piece.partition("⟧")
        if number and mark:
            text.append(learned, "green").append(rest, "dim")
        else:
            text.append(piece, "green" if number else "dim")
    return text
