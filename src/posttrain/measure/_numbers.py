"""Numbers written as texts, and their correlation from sums."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from posttrain.core.errors import BadRequest
from posttrain.measure import Array


def number_pairs(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Array:
    """Predicted and right numbers, [texts, 2].

    Raises:
        BadRequest: If something isn't one finite number, or all numbers of a side are alike.
    """
    if any(len(each) != 1 for each in references):
        raise BadRequest("Numbers are compared with exactly one reference each.")
    ours = [_number(text, f"Prediction {i}") for i, text in enumerate(predictions, 1)]
    theirs = [_number(each[0], f"Reference {i}") for i, each in enumerate(references, 1)]
    for values, what in ((ours, "predictions"), (theirs, "references")):
        if len(set(values)) < 2:
            raise BadRequest(f"All {what} are {values[0]:g}, so there is no correlation.")
    return np.array([ours, theirs]).T


def _number(text: str, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BadRequest(f"{what} is no number: '{text}'.")
    return value


def correlations(sums: Array) -> Array:
    """Pearson correlations from the sums of 1, x, y, x², y² and xy: [R, 6] to [R]; 0 where a side doesn't vary."""
    n, x, y, xx, yy, xy = sums.T
    spread = (n * xx - x * x) * (n * yy - y * y)
    # Rounding leaves a little of a spread that is zero.
    varies = spread > 1e-20 * (n * xx * n * yy)
    found = np.divide(n * xy - x * y, np.sqrt(np.maximum(spread, 0)), out=np.zeros_like(n), where=varies)
    return np.clip(found, -1.0, 1.0)
