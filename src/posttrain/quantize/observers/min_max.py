"""Min-max observer: the range is what was seen, or a moving average of each batch's extremes (Jacob et al., 2018, 3.1).

Nothing is clamped that calibration has seen, so a single outlier sets the step for all other values. The moving average
follows the typical batch instead.
"""

from __future__ import annotations

import math

from pydantic import Field
from torch import Tensor

from posttrain.quantize.observers import Observation, Observer


class MinMax(Observer):
    """From the smallest to the largest number."""

    moving_average: float | None = Field(None, gt=0, lt=1)
    """Share of the old value that each new batch keeps, for example 0.9; null takes the extremes of all batches."""

    def start(self) -> Observation:
        """Begin with nothing seen."""
        return _Extremes(self.symmetric, self.moving_average)


class _Extremes(Observation):
    def __init__(self, symmetric: bool, moving_average: float | None) -> None:
        self.symmetric, self.keep = symmetric, moving_average
        self.minimum, self.maximum = math.nan, math.nan

    def see(self, x: Tensor) -> None:
        low, high = (float(extreme) for extreme in x.detach().aminmax())
        if math.isnan(self.minimum):
            self.minimum, self.maximum = low, high
        elif self.keep is None:
            self.minimum, self.maximum = min(self.minimum, low), max(self.maximum, high)
        else:
            self.minimum = self.keep * self.minimum + (1 - self.keep) * low
            self.maximum = self.keep * self.maximum + (1 - self.keep) * high

    def range(self, bits: int) -> tuple[float, float]:
        minimum, maximum = min(self.minimum, 0.0), max(self.maximum, 0.0)
        if self.symmetric:
            maximum = max(-minimum, maximum)
            minimum = -maximum
        return minimum, maximum
