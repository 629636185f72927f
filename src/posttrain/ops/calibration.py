"""Expected calibration error: how far a classifier's confidence is from its accuracy.

Naeini et al. (2015, "Obtaining Well Calibrated Probabilities Using Bayesian Binning"), as Guo et al. (2017, "On
Calibration of Modern Neural Networks", equation 3) use it: predictions are sorted into bins of equal width by their
confidence. Left out: bins of equal size, and the error of each class.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def expected_calibration_error(confidences: ArrayLike, correct: ArrayLike, bins: int = 15) -> float:
    """The mean distance of confidence and accuracy over bins, weighted by how many predictions lie in each.

    Args:
        confidences: [n], probability of the predicted class, in [0, 1].
        correct: [n], whether the prediction was right.
        bins: Number of bins (i / bins, (i + 1) / bins]; a confidence of 0 counts to the first.

    Raises:
        ValueError: No predictions, arrays that differ in length, a confidence outside [0, 1], or no bins.
    """
    sure, right = np.asarray(confidences, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    if sure.ndim != 1 or not sure.size or sure.shape != right.shape:
        raise ValueError(f"confidences and correct must be [n], n at least 1: {list(sure.shape)}, {list(right.shape)}")
    if not ((sure >= 0) & (sure <= 1)).all():
        raise ValueError("confidences must lie in [0, 1]")
    if bins < 1:
        raise ValueError(f"bins must be at least 1, not {bins}")
    place = np.clip(np.ceil(sure * bins).astype(int) - 1, 0, bins - 1)
    # |accuracy - confidence| of a bin times its share is the absolute sum of differences over n.
    return float(np.abs(np.bincount(place, weights=right - sure, minlength=bins)).sum() / sure.size)
