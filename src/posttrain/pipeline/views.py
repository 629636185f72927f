"""What a step wants the reader of the report to see: curves, tables, samples, notes.

Steps describe, the report draws. A view is plain JSON-able data, so a finished step can be shown again later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

View = dict[str, Any]


def note(text: str, tone: str = "info") -> View:
    """A sentence for the reader.

    The first of a step that isn't a ``source`` is its line in the report's short story, so it says what came of the
    step in words that need no knowledge of the method.

    Args:
        text: The sentence.
        tone: ``info``, ``good``, ``warning``, or ``source`` for how a figure was made.
    """
    return {"kind": "note", "text": text, "tone": tone}


def facts(title: str, values: Mapping[str, Any]) -> View:
    """A short list of named values."""
    return {"kind": "facts", "title": title, "values": dict(values)}


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, verbatim: bool = False) -> View:
    """A table; numbers are shown with sensible digits, columns' names as words unless they must stay as they are."""
    found = {"kind": "table", "title": title, "columns": list(columns), "rows": [list(row) for row in rows]}
    return {**found, "verbatim": True} if verbatim else found


def curve(title: str, x_label: str, y_label: str, series: Mapping[str, Sequence[tuple[float, float]]]) -> View:
    """Lines over a common axis; `series` maps a name to its points (x, y)."""
    points = {name: [[float(x), float(y)] for x, y in values] for name, values in series.items()}
    return {"kind": "curve", "title": title, "x_label": x_label, "y_label": y_label, "series": points}


def scatter(title: str, x_label: str, y_label: str, points: Mapping[str, tuple[float, float]]) -> View:
    """Named points, for trade-offs such as quality against size."""
    named = {name: [float(x), float(y)] for name, (x, y) in points.items()}
    return {"kind": "scatter", "title": title, "x_label": x_label, "y_label": y_label, "points": named}


def dots(title: str, x_label: str, rows: Mapping[str, Mapping[str, Sequence[float | None] | None]]) -> View:
    """One row a figure and one dot a series, with an interval around it.

    Args:
        title: Heading.
        x_label: What is measured.
        rows: By row and series the value with the ends of its interval, which may be None; None for no dot.
    """
    found = {
        row: {name: None if dot is None else list(dot) for name, dot in each.items()} for row, each in rows.items()
    }
    return {"kind": "dots", "title": title, "x_label": x_label, "rows": found}


def samples(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> View:
    """Texts side by side: the first column is the prompt, the others are what each model wrote."""
    return {"kind": "samples", "title": title, "columns": list(columns), "rows": [list(row) for row in rows]}


def masked_text(title: str, pieces: Sequence[tuple[str, bool]]) -> View:
    """A text whose pieces carry loss or don't: what the audit shows."""
    return {"kind": "masked_text", "title": title, "pieces": [[text, bool(on)] for text, on in pieces]}


def document(title: str, text: str) -> View:
    """A longer text, shown folded."""
    return {"kind": "document", "title": title, "text": text}
