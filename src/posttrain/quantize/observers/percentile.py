"""Percentile observer: the range covers a share of all values, the rest is clamped (Wu et al., 2020, section 3.4).

Kept in a histogram, so the bounds are exact to a bin's width (1/4096 of the largest value, at most twice that).
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from posttrain.quantize.histogram import Histogram
from posttrain.quantize.observers import Observation, Observer


class Percentile(Observer):
    """Leave the outermost values out."""

    percent: float = Field(99.99, gt=50, le=100)
    """How many percent of the values are covered. A range that isn't symmetric leaves out as many on both sides."""

    def start(self) -> Observation:
        """Begin with an empty histogram."""
        return _Share(self.symmetric, self.percent / 100)


class _Share(Observation):
    def __init__(self, symmetric: bool, share: float) -> None:
        self.symmetric, self.share = symmetric, share
        self.histogram = Histogram()

    def see(self, x: Tensor) -> None:
        self.histogram.add(x)

    def range(self, bits: int) -> tuple[float, float]:
        if self.symmetric:
            largest = self.histogram.magnitude_quantile(self.share)
            return -largest, largest
        tail = (1 - self.share) / 2
        return min(self.histogram.quantile(tail), 0.0), max(self.histogram.quantile(1 - tail), 0.0)
