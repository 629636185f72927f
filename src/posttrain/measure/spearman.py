"""Spearman correlation: whether predicted numbers are in the right order.

Pearson's correlation of the ranks; equal numbers share the mean of their ranks. A prediction and its reference are one
number each. Draws of the bootstrap are ranked anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from posttrain.measure import FEWEST_ITEMS, Array, Statistics, TextMetric
from posttrain.measure._numbers import correlations, number_pairs
from posttrain.ops.bootstrap import Interval, PairedTest, paired_statistic_test, statistic_interval


class Spearman(TextMetric):
    """Correlation of ranks."""

    higher_is_better: ClassVar[bool] = True

    def statistics(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Statistics:
        """The two numbers of each pair.

        Raises:
            BadRequest: If something isn't a number, or all predictions or all references are alike.
        """
        return Statistics(number_pairs(predictions, references))

    def value(self, rows: Array) -> float:
        """The correlation of all pairs [texts, 2]."""
        return float(rank_correlations(rows[None])[0])

    def interval(self, rows: Array, seed: int) -> Interval | None:
        """95 % bootstrap interval over pairs."""
        if len(rows) < FEWEST_ITEMS:
            return None
        return statistic_interval(rows, rank_correlations, seed=seed)

    def paired(self, rows: Array, baseline: Array, seed: int) -> PairedTest | None:
        """Paired bootstrap test of two systems."""
        if len(rows) < FEWEST_ITEMS:
            return None
        return paired_statistic_test(rows, baseline, rank_correlations, seed=seed)


def rank_correlations(pairs: Array) -> Array:
    """The rank correlations of R sets of pairs: [R, n, 2] to [R]; 0 where all numbers of a side are alike."""
    x, y = (np.stack([ranks(each) for each in pairs[..., side]]) for side in (0, 1))
    x, y = x - x.mean(1, keepdims=True), y - y.mean(1, keepdims=True)
    n = np.full(len(x), x.shape[1], dtype=np.float64)
    return correlations(np.stack([n, x.sum(1), y.sum(1), (x * x).sum(1), (y * y).sum(1), (x * y).sum(1)], axis=1))


def ranks(values: Array) -> Array:
    """Ranks from 1, equal values with the mean of theirs: [n] to [n]."""
    ordered = np.sort(values)
    return (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right") + 1) / 2
