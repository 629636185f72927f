"""Scores of predicted classes: accuracy, precision, recall, F1 and the Matthews correlation of several classes.

Averages of precision, recall and F1 are over the classes that occur in predictions or references, as in scikit-learn:
macro all alike, weighted by how often a class is right, micro over all decisions, which for one class a row is the
accuracy. A ratio without anything to divide by counts 0. The Matthews correlation of several classes is Gorodkin's R_K
(2004). Texts are compared after stripping blanks at both ends. Left out: rows with several classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np
from pydantic import model_validator

from posttrain.core.errors import BadRequest
from posttrain.measure import AdditiveMetric, Array, Statistics, totals

# Rows have three numbers a class, so free texts, each a class of its own, would fill the memory.
_MOST_CLASSES = 1000

_OF_POSITIVE = ("f1", "precision", "recall")


class Classification(AdditiveMetric):
    """Accuracy of one class a row, with F1 and Matthews correlation beside it."""

    higher_is_better: ClassVar[bool] = True

    score_by: Literal["accuracy", "macro_f1", "micro_f1", "weighted_f1", "mcc", "f1", "precision", "recall"] = (
        "accuracy"
    )
    """Which of the numbers is the value; all of them are its parts. The last three are of the `positive` class."""

    positive: str | None = None
    """The class whose own precision, recall and F1 are parts, too."""

    @model_validator(mode="after")
    def _of_a_class(self) -> Self:
        if self.positive is None and self.score_by in _OF_POSITIVE:
            raise ValueError(f"{self.score_by} is that of one class, so name it: `positive`")
        return self

    def statistics(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Statistics:
        """For each class of this set whether it is right, is predicted, and is both; rows of sets differ in classes.

        Raises:
            BadRequest: If a row has not one reference, or there are more than 1000 classes.
        """
        return self.both_statistics(predictions, predictions, references)[0]

    def both_statistics(
        self, predictions: Sequence[str], baseline: Sequence[str], references: Sequence[Sequence[str]]
    ) -> tuple[Statistics, Statistics]:
        """The statistics of two systems, over the classes that either of them predicts."""
        if any(len(each) != 1 for each in references):
            raise BadRequest("Classes are compared with exactly one reference a row.")
        actual = [each[0].strip() for each in references]
        systems = [[text.strip() for text in each] for each in (predictions, baseline)]
        occurring = {*actual, *systems[0], *systems[1]}
        if self.positive is not None and self.positive not in occurring:
            raise BadRequest(
                f"No row is '{self.positive}' or predicted as it, so this class has no scores.",
                f"The classes: {', '.join(sorted(occurring)[:10])}.",
            )
        classes = sorted(occurring, key=lambda each: (each != self.positive, each))  # the positive one first
        if len(classes) > _MOST_CLASSES:
            raise BadRequest(
                f"There are {len(classes)} different classes, more than {_MOST_CLASSES}.",
                "Texts that are no classes can be compared by exact_match.",
            )
        first, second = (Statistics(_rows(each, actual, classes)) for each in systems)
        return first, second

    def values(self, sums: Array) -> Array:
        """The chosen score."""
        return self._all(sums)[self.score_by]

    def parts(self, rows: Array) -> dict[str, Any]:
        """All scores, and the number of classes."""
        sums = totals(rows)[None]
        classes = int((sums.reshape(3, -1)[1:].sum(0) > 0).sum())
        return {**{name: float(value[0]) for name, value in self._all(sums).items()}, "classes": classes}

    def _all(self, sums: Array) -> dict[str, Array]:
        """All scores for R sums of rows, with those of the positive class, which is the first."""
        own = {} if self.positive is None else {name: each[:, 0] for name, each in _per_class(sums).items()}
        return {**_scores(sums), **own}


def class_scores(predicted: Sequence[Hashable], actual: Sequence[Hashable]) -> dict[str, float]:
    """All scores of predicted classes.

    Args:
        predicted: The classes, any hashable values.
        actual: The right ones, as many, at least one.

    Returns:
        ``accuracy``, ``mcc``, and ``precision``, ``recall`` and ``f1`` with the prefixes ``macro_``, ``weighted_`` and
        ``micro_``.
    """
    classes = sorted({*predicted, *actual}, key=str)
    right = Counter(a for a, b in zip(predicted, actual, strict=True) if a == b)
    counts = (right, Counter(predicted), Counter(actual))
    sums = np.array([[count[each] for count in counts for each in classes]], dtype=np.float64)
    return {name: float(value[0]) for name, value in _scores(sums).items()}


def _rows(predicted: Sequence[Hashable], actual: Sequence[Hashable], classes: Sequence[Hashable]) -> Array:
    """[texts, 3 C] of 0 and 1: both predicted and right, predicted, right, for each class."""
    index = {each: number for number, each in enumerate(classes)}
    ours, theirs = (np.eye(len(classes))[[index[each] for each in side]] for side in (predicted, actual))
    return np.concatenate([ours * theirs, ours, theirs], axis=1)


def _scores(sums: Array) -> dict[str, Array]:
    """All scores for R sums of rows, each [R]."""
    correct, given, real = np.split(sums, 3, axis=1)  # [R, C]
    total, hits = real.sum(1), correct.sum(1)
    occurs = given + real > 0
    accuracy = hits / total
    scores = {"accuracy": accuracy, "mcc": _matthews(hits, total, given, real)}
    for name, values in _per_class(sums).items():
        scores[f"macro_{name}"] = (values * occurs).sum(1) / occurs.sum(1)
        scores[f"weighted_{name}"] = (values * real).sum(1) / total
        scores[f"micro_{name}"] = accuracy
    return scores


def _per_class(sums: Array) -> dict[str, Array]:
    """Precision, recall and F1 of each class, [R, C]."""
    correct, given, real = np.split(sums, 3, axis=1)
    return {
        "precision": _ratio(correct, given),
        "recall": _ratio(correct, real),
        "f1": _ratio(2 * correct, given + real),
    }


def _ratio(numerator: Array, denominator: Array) -> Array:
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)


def _matthews(hits: Array, total: Array, given: Array, real: Array) -> Array:
    """(c s - sum p t) / sqrt((s^2 - sum p^2) (s^2 - sum t^2)); 0 where one side has a single class."""
    spread = (total**2 - (given**2).sum(1)) * (total**2 - (real**2).sum(1))
    return _ratio(hits * total - (given * real).sum(1), np.sqrt(spread))
