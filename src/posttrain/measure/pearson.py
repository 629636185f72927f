"""Pearson correlation of predicted numbers with the right ones, as for graded similarity (STS-B).

r is the covariance by the product of the standard deviations. A prediction and its reference are one number each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from posttrain.measure import AdditiveMetric, Array, Statistics
from posttrain.measure._numbers import correlations, number_pairs


class Pearson(AdditiveMetric):
    """Linear correlation."""

    higher_is_better: ClassVar[bool] = True

    def statistics(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Statistics:
        """1, x, y, x², y² and xy of each pair, with x and y standardised, which changes no correlation.

        Raises:
            BadRequest: If something isn't a number, or all predictions or all references are alike.
        """
        pairs = number_pairs(predictions, references)
        # Squares of very large or small numbers are none, so they are scaled before.
        scaled = pairs / abs(pairs).max(0)
        centred = scaled - scaled.mean(0)
        centred /= abs(centred).max(0)
        x, y = (centred / centred.std(0)).T
        return Statistics(np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1))

    def values(self, sums: Array) -> Array:
        """The correlation of each sum."""
        return correlations(sums)
