"""Entropy observer: the threshold that loses least information (Migacz, 2017, "8-bit Inference with TensorRT").

For each candidate threshold, P is the histogram of absolute values with all that lies beyond counted in the last bin;
Q is the part inside on as few levels as the codes have, spread again evenly over the bins that weren't empty. The
threshold with the smallest divergence KL(P || Q) wins. A bin of P that is empty in Q counts with a tiny probability, as
infinity would rule out nearly every threshold. A range that isn't symmetric is what was seen, cut off at the threshold.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from posttrain.quantize.histogram import Histogram
from posttrain.quantize.observers import Observation, Observer

_TINY = 1e-4  # of an empty bin, relative to an average one
_POSITIONS = 8  # candidate thresholds a level


class Entropy(Observer):
    """Keep the distribution's shape."""

    def start(self) -> Observation:
        """Begin with an empty histogram."""
        return _LeastDivergence(self.symmetric)


class _LeastDivergence(Observation):
    def __init__(self, symmetric: bool) -> None:
        self.symmetric = symmetric
        self.histogram = Histogram()

    def see(self, x: Tensor) -> None:
        self.histogram.add(x)

    def range(self, bits: int) -> tuple[float, float]:
        low, high = min(self.histogram.minimum, 0.0), max(self.histogram.maximum, 0.0)
        threshold = min(_threshold(self.histogram, levels=1 << (bits - 1)), max(-low, high))
        return (-threshold, threshold) if self.symmetric else (max(low, -threshold), min(high, threshold))


def _threshold(histogram: Histogram, levels: int) -> float:
    # Pairs of bins joined: half as many, as fine as in the talk.
    counts = histogram.magnitudes().view(-1, 2).sum(1).numpy().astype(np.float64)
    width = 2 * histogram.width
    used = int(np.flatnonzero(counts)[-1]) + 1
    step = max(levels // _POSITIONS, 1)
    candidates = [*range(levels, used, step), max(used, levels)]
    best = min(candidates, key=lambda bins: divergence(counts, bins, levels))
    return best * width


def divergence(counts: np.ndarray, bins: int, levels: int) -> float:
    """KL(P || Q) in nats for a threshold behind the first `bins` bins.

    Args:
        counts: [B] float64, of absolute values; some of the first `bins` must be positive.
        bins: Bins inside the threshold, at least `levels`.
        levels: Values that codes on one side of zero can take.

    Returns:
        At least 0 up to rounding; infinite where nothing lies inside.
    """
    inside = counts[:bins]
    if not inside.any():
        return float("inf")
    p = inside.copy()
    p[-1] += counts[bins:].sum()
    level = np.arange(bins) * levels // bins  # [bins], each bin's level
    occupied = inside > 0
    total = np.bincount(level, inside, levels)
    filled = np.bincount(level[occupied], minlength=levels)
    q = np.where(occupied, (total / np.maximum(filled, 1))[level], _TINY * inside.sum() / bins)
    p, q = p / p.sum(), q / q.sum()
    positive = p > 0
    return float((p[positive] * np.log(p[positive] / q[positive])).sum())
