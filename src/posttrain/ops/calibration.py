"""Calibration: how far stated probabilities are from what happens.

Expected calibration error: Naeini et al. (2015, "Obtaining Well Calibrated Probabilities Using Bayesian Binning"), as
Guo et al. (2017, "On Calibration of Modern Neural Networks", equation 3) use it: predictions are sorted into bins of
equal width by their confidence. The bins themselves are the reliability diagram. Brier score: Brier (1950,
"Verification of Forecasts Expressed in Terms of Probability"), summed over classes, so that it lies in [0, 2].

With few predictions the error is above 0 even for one who is calibrated; `error_if_calibrated` says by how much. Left
out: bins of equal size, and the error of each class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Bin:
    """The predictions whose confidence lies in (low, high].

    Attributes:
        low: Lower edge.
        high: Upper edge.
        count: How many there are, at least one.
        confidence: Their mean confidence.
        accuracy: The share of them that was right.
    """

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


def expected_calibration_error(confidences: ArrayLike, correct: ArrayLike, bins: int = 15) -> float:
    """The mean distance of confidence and accuracy over bins, weighted by how many predictions lie in each.

    Args:
        confidences: [n], probability of the predicted class, in [0, 1].
        correct: [n], whether the prediction was right.
        bins: Number of bins (i / bins, (i + 1) / bins]; a confidence of 0 counts to the first.

    Raises:
        ValueError: No predictions, arrays that differ in length, a confidence outside [0, 1], or no bins.
    """
    terms = calibration_terms(confidences, correct, bins)
    return float(np.abs(terms.sum(0)).sum() / len(terms))


def calibration_terms(confidences: ArrayLike, correct: ArrayLike, bins: int = 15) -> Array:
    """What each prediction adds to the error: [n, bins], correct - confidence in its own bin, 0 in the others.

    The error of any selection of rows is the sum over bins of the absolute column sums, over the number of rows, since
    |accuracy - confidence| of a bin times its share is the absolute sum of differences over n.

    Args:
        confidences, correct, bins: As in `expected_calibration_error`.

    Raises:
        ValueError: See there.
    """
    sure, right, place = _placed(confidences, correct, bins)
    terms = np.zeros((sure.size, bins))
    terms[np.arange(sure.size), place] = right - sure
    return terms


def reliability(confidences: ArrayLike, correct: ArrayLike, bins: int = 15) -> list[Bin]:
    """The bins that hold predictions, in order: confidence against accuracy is the reliability diagram.

    Args:
        confidences, correct, bins: As in `expected_calibration_error`.

    Raises:
        ValueError: See there.
    """
    sure, right, place = _placed(confidences, correct, bins)
    found = []
    for index in np.unique(place):
        inside = place == index
        found.append(
            Bin(
                low=float(index / bins),
                high=float((index + 1) / bins),
                count=int(inside.sum()),
                confidence=float(sure[inside].mean()),
                accuracy=float(right[inside].mean()),
            )
        )
    return found


def error_if_calibrated(confidences: ArrayLike, bins: int = 15, draws: int = 1000, seed: int = 0) -> float:
    """The error to expect of one who is right exactly as often as it says: the mean over drawn outcomes.

    Args:
        confidences: [n], in [0, 1].
        bins: See `expected_calibration_error`.
        draws: How often outcomes are drawn.
        seed: Of the draws.

    Raises:
        ValueError: As in `expected_calibration_error`.
    """
    sure, _, place = _placed(confidences, np.zeros(np.shape(confidences)), bins)
    generator = np.random.default_rng(seed)
    errors = [
        np.abs(np.bincount(place, weights=(generator.random(sure.size) < sure) - sure, minlength=bins)).sum()
        for _ in range(draws)
    ]
    return float(np.mean(errors) / sure.size)


def brier_scores(probabilities: Sequence[ArrayLike], right: Sequence[int]) -> Array:
    """The Brier score of each prediction: the squared distance of the probabilities from 1 for what came and 0 else.

    Args:
        probabilities: n times [k], of all classes, adding up to 1; k may differ.
        right: [n], the class that came, counted from 0.

    Returns:
        [n], each in [0, 2]; 0 is best, and (k - 1) / k is what equal probabilities get.

    Raises:
        ValueError: Lengths that differ, a class that isn't there, or numbers that are no probabilities.
    """
    if len(probabilities) != len(right):
        raise ValueError(f"as many outcomes as predictions are needed: {len(right)} and {len(probabilities)}")
    scores = np.empty(len(right))
    for index, (given, came) in enumerate(zip(probabilities, right)):
        shares = np.asarray(given, dtype=np.float64)
        if shares.ndim != 1 or not 0 <= came < shares.size:
            raise ValueError(f"prediction {index}: there is no class {came} of {shares.size}")
        if not ((shares >= 0) & (shares <= 1)).all() or abs(shares.sum() - 1) > 1e-6:
            raise ValueError(f"prediction {index}: the numbers are no probabilities")
        scores[index] = ((shares - (np.arange(shares.size) == came)) ** 2).sum()
    return scores


def _placed(confidences: ArrayLike, correct: ArrayLike, bins: int) -> tuple[Array, Array, NDArray[np.int64]]:
    """Confidences, outcomes and the bin of each, checked."""
    sure, right = np.asarray(confidences, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    if sure.ndim != 1 or not sure.size or sure.shape != right.shape:
        raise ValueError(f"confidences and correct must be [n], n at least 1: {list(sure.shape)}, {list(right.shape)}")
    if not ((sure >= 0) & (sure <= 1)).all():
        raise ValueError("confidences must lie in [0, 1]")
    if bins < 1:
        raise ValueError(f"bins must be at least 1, not {bins}")
    return sure, right, np.clip(np.ceil(sure * bins).astype(np.int64) - 1, 0, bins - 1)
