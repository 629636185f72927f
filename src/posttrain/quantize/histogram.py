"""A histogram of numbers whose range isn't known beforehand, in memory that doesn't grow.

The bins are equally wide and lie symmetrically around zero. A number outside doubles their width as often as needed,
which joins neighbours and moves no count across a border: unlike rescaling to a new range, it is exact.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Histogram:
    """Counts of numbers in bins.

    Attributes:
        counts: int64 [2 * half]; bin i covers [(i - half) * width, (i - half + 1) * width).
        width: Of a bin.
        minimum: The smallest number seen.
        maximum: The largest.
    """

    def __init__(self, half: int = 4096) -> None:
        """Empty.

        Args:
            half: Bins on each side of zero, even.
        """
        self.half = half
        self.counts = torch.zeros(2 * half, dtype=torch.int64)
        self.width = 0.0
        self.minimum, self.maximum = math.inf, -math.inf

    def add(self, x: Tensor) -> None:
        """Count the numbers of a tensor of any shape and floating type; all must be finite."""
        values = x.detach().reshape(-1).float()
        low, high = (float(extreme) for extreme in values.aminmax())
        self.minimum, self.maximum = min(self.minimum, low), max(self.maximum, high)
        self._cover(max(-low, high))
        if self.width:
            bins = (values / self.width).floor_().clamp_(-self.half, self.half - 1)  # the largest number itself: inside
            found = torch.bincount(bins.long() + self.half, minlength=2 * self.half)
        else:  # only zeros so far
            found = torch.zeros_like(self.counts)
            found[self.half] = values.numel()
        self.counts += found.cpu()

    def _cover(self, largest: float) -> None:
        if self.width == 0.0:
            self.width = largest / self.half
            return
        while self.half * self.width < largest:
            self.width *= 2
            joined = self.counts.view(-1, 2).sum(1)  # [half]: pairs never straddle zero, since half is even
            self.counts = torch.nn.functional.pad(joined, (self.half // 2, self.half // 2))

    def centers(self) -> Tensor:
        """The middle of each bin, float64 [2 * half]."""
        return (torch.arange(-self.half, self.half, dtype=torch.float64) + 0.5) * self.width

    def magnitudes(self) -> Tensor:
        """Counts of absolute values: int64 [half], bin i covers [i * width, (i + 1) * width)."""
        return self.counts[self.half :] + self.counts[: self.half].flip(0)

    def quantile(self, share: float) -> float:
        """The number below which a share of all numbers lies, as if they lay evenly in their bin."""
        return self._within(_position(self.counts, share) - self.half)

    def magnitude_quantile(self, share: float) -> float:
        """The absolute value below which a share of all absolute values lies."""
        return min(_position(self.magnitudes(), share) * self.width, max(-self.minimum, self.maximum))

    def _within(self, position: float) -> float:
        return min(max(position * self.width, self.minimum), self.maximum)


def _position(counts: Tensor, share: float) -> float:
    """Where a share of the counts lies below, in bins from the first border."""
    reached = counts.double().cumsum(0)  # exact up to 2^53 numbers
    wanted = share * float(reached[-1])
    index = int(torch.searchsorted(reached, torch.tensor(wanted, dtype=torch.float64)))
    index = min(index, len(counts) - 1)
    before = float(reached[index]) - float(counts[index])
    return index + (wanted - before) / max(float(counts[index]), 1.0)
