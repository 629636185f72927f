"""Label texts with a trained classifier: texts given here, in a file, or one a line on standard input."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from posttrain.cli.arguments import Parser, given
from posttrain.cli.commands import Request
from posttrain.core.errors import BadRequest


def add_arguments(parser: Parser) -> None:
    """Model and texts."""
    parser.add_argument("model", help="a classifier: a folder or hub:owner/name")
    parser.add_argument("texts", nargs="*", metavar="text", help="what to label; after -- it may begin with -")
    parser.add_argument("--batch-file", metavar="F", help='texts: one a line, or JSON Lines with {"text": …}')
    parser.add_argument("--batch-size", type=int, metavar="N", help="texts at once; never changes the outcome")


def run(request: Request) -> dict[str, Any]:
    """`predictions` in the texts' order, each with `text`, `label` and `probabilities`."""
    texts = _texts(request.options)

    from posttrain.decode.labelling import classify
    from posttrain.models.sources import load

    found = classify(load(request.options.model), texts, **given(request.options, "batch_size"))
    return {"predictions": [asdict(labelling) for labelling in found]}


def _texts(options: argparse.Namespace) -> list[Any]:
    """Texts from the command line, else from the file, else from standard input."""
    if options.texts and options.batch_file:
        raise BadRequest("Texts are given here and in --batch-file.", "Give them in one place.")
    if options.texts:
        return list(options.texts)
    if options.batch_file:
        return _read(options.batch_file)
    if sys.stdin is None or sys.stdin.isatty():
        raise BadRequest("There is no text.", "Give one after the model, in --batch-file, or on standard input.")
    texts = [line for line in sys.stdin.read().splitlines() if line.strip()]
    if not texts:
        raise BadRequest("Standard input holds no text.", "Give one a line.")
    return texts


def _read(file: str) -> list[Any]:
    """Texts and pairs of texts from a file, with labels or without."""
    from posttrain.data import dataset

    texts: list[Any] = []
    for record in dataset.read(Path(file), lines=True).records:
        text, pair = getattr(record, "text", None), getattr(record, "text_pair", None)
        if text is None:
            raise BadRequest(f"{getattr(record, 'origin', file)}: there is no text.", "Name the column `text`.")
        texts.append(text if pair is None else (text, pair))
    return texts


def show(result: dict[str, Any]) -> None:
    """A line for each text: its label, how probable that is, and the text."""
    from rich.text import Text

    from posttrain.cli.presentation import write
    from posttrain.pipeline.quantities import number

    for found in result["predictions"]:
        label, shares, text = found["label"], found["probabilities"], found["text"]
        if isinstance(label, float):
            says = number(label)
        elif isinstance(label, list):
            says = ", ".join(f"{name} {shares[name]:.2f}" for name in label) or "no label"
        else:
            says = f"{label} {shares[label]:.2f}"
        write(Text(f"{says}\t{text if isinstance(text, str) else ' | '.join(text)}"))
