"""MSE observer: the range with the least mean squared quantization error (Nagel et al., 2021, section 3.1).

Clamping and rounding errors are weighed on a histogram of what was seen, over ranges that shrink from the extremes in
even steps. A range that isn't symmetric shrinks by the same factor on both sides.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from posttrain.ops.affine import affine_parameters, dequantize, quantize
from posttrain.quantize.histogram import Histogram
from posttrain.quantize.observers import Observation, Observer


class Mse(Observer):
    """Weigh clamping against rounding."""

    candidates: int = Field(100, ge=2)
    """How many ranges are tried, from 1 / candidates of the extremes up to the extremes."""

    def start(self) -> Observation:
        """Begin with an empty histogram."""
        return _LeastError(self.symmetric, self.candidates)


class _LeastError(Observation):
    def __init__(self, symmetric: bool, candidates: int) -> None:
        self.symmetric, self.candidates = symmetric, candidates
        self.histogram = Histogram()

    def see(self, x: Tensor) -> None:
        self.histogram.add(x)

    def range(self, bits: int) -> tuple[float, float]:
        minimum, maximum = min(self.histogram.minimum, 0.0), max(self.histogram.maximum, 0.0)
        if self.symmetric:
            maximum = max(-minimum, maximum)
            minimum = -maximum
        occupied = self.histogram.counts.nonzero()[:, 0]
        values = self.histogram.centers()[occupied].float()  # [N]
        weights = self.histogram.counts[occupied].double()
        factors = torch.arange(1, self.candidates + 1) / self.candidates
        lower, upper = (factors * minimum)[:, None], (factors * maximum)[:, None]  # [candidates, 1]
        scale, zero_point = affine_parameters(lower, upper, bits, self.symmetric)
        rows = values.expand(self.candidates, -1)
        rounded = dequantize(quantize(rows, scale, zero_point, bits, self.symmetric), scale, zero_point)
        errors = (rounded - rows).double().square() @ weights  # [candidates]
        best = factors[int(errors.argmin())].item()
        return best * minimum, best * maximum
