"""Scores of predicted classes: accuracy, precision, recall, F1 and the Matthews correlation of several classes.

Averages of precision, recall and F1 are over the classes that occur in predictions or references, as in scikit-learn:
macro all alike, weighted by how often a class is right, micro over all decisions, which for one class a row is the
accuracy. A ratio without anything to divide by counts 0. The Matthews correlation of several classes is Gorodkin's R_K
(2004). Texts are compared after stripping blanks at both ends. Left out: rows with several classes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np

from posttrain import __version__
from posttrain.core.errors import BadRequest
from posttrain.measure import Measurement, TextMetric
from posttrain.ops.bootstrap import ratio_interval

# Percentile intervals from fewer rows than this are too narrow.
_FEWEST_ITEMS = 20


class Classification(TextMetric):
    """Accuracy of one class a row, with F1 and Matthews correlation beside it."""

    higher_is_better: ClassVar[bool] = True

    score_by: Literal["accuracy", "macro_f1", "micro_f1", "weighted_f1", "mcc"] = "accuracy"
    """Which of the numbers is the value; all of them are its parts."""

    def score(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Measurement:
        """Compare predicted classes with the right ones.

        The interval, a bootstrap over rows, is given for accuracy.

        Raises:
            BadRequest: If there are no rows, or not one reference for each prediction.
        """
        if not predictions or len(predictions) != len(references) or any(len(each) != 1 for each in references):
            raise BadRequest("Classes are compared with exactly one reference a row, in at least one row.")
        ours = [text.strip() for text in predictions]
        theirs = [each[0].strip() for each in references]
        scores = class_scores(ours, theirs)
        interval = None
        if self.score_by in ("accuracy", "micro_f1") and len(ours) >= _FEWEST_ITEMS:
            found = ratio_interval([float(a == b) for a, b in zip(ours, theirs)], [1.0] * len(ours))
            interval = (found.low, found.high)
        return Measurement(
            name="classification",
            value=scores[self.score_by],
            interval=interval,
            signature=f"classification|score:{self.score_by}|rows:{len(ours)}|posttrain:{__version__}",
            parts={**scores, "rows": len(ours), "classes": len({*ours, *theirs})},
        )


def class_scores(predicted: Sequence[Any], actual: Sequence[Any]) -> dict[str, float]:
    """All scores of predicted classes.

    Args:
        predicted: The classes, any hashable values.
        actual: The right ones, as many, at least one.

    Returns:
        ``accuracy``, ``mcc``, and ``precision``, ``recall`` and ``f1`` with the prefixes ``macro_``, ``weighted_`` and
        ``micro_``.
    """
    right = Counter(a for a, b in zip(predicted, actual, strict=True) if a == b)
    said, are = Counter(predicted), Counter(actual)
    classes = sorted({*said, *are}, key=str)
    correct, given, real = (np.array([float(count[c]) for c in classes]) for count in (right, said, are))
    total, hits = len(actual), correct.sum()
    per_class = {
        "precision": _ratio(correct, given),
        "recall": _ratio(correct, real),
        "f1": _ratio(2 * correct, given + real),
    }
    scores = {"accuracy": float(hits / total), "mcc": _matthews(hits, total, given, real)}
    for name, values in per_class.items():
        scores[f"macro_{name}"] = float(values.mean())
        scores[f"weighted_{name}"] = float((values * real).sum() / total)
        scores[f"micro_{name}"] = scores["accuracy"]
    return scores


def _ratio(numerator: np.ndarray[Any, Any], denominator: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)


def _matthews(hits: float, total: int, given: np.ndarray[Any, Any], real: np.ndarray[Any, Any]) -> float:
    """(c s - sum p t) / sqrt((s^2 - sum p^2) (s^2 - sum t^2)); 0 where one side has a single class."""
    spread = (total**2 - (given**2).sum()) * (total**2 - (real**2).sum())
    return float((hits * total - (given * real).sum()) / math.sqrt(spread)) if spread > 0 else 0.0
