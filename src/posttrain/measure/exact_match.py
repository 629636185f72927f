"""Exact match: the percentage of answers that are one of the right ones, as SQuAD counts it.

Rajpurkar et al. (2016, "SQuAD: 100,000+ Questions for Machine Comprehension of Text"): without case, punctuation,
articles and extra blanks. A blank reference means that there is no answer, and a blank prediction says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from posttrain.measure import AdditiveMetric, Array, Statistics, means, with_count
from posttrain.ops.answers import normalized


class ExactMatch(AdditiveMetric):
    """Percentage of predictions that equal a reference."""

    higher_is_better: ClassVar[bool] = True
    blank_references: ClassVar[bool] = True

    normalize: bool = True
    """Ignore case, punctuation, articles and extra blanks; otherwise only blanks at both ends."""

    def statistics(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Statistics:
        """Whether each prediction is right."""
        form = normalized if self.normalize else str.strip
        return Statistics(
            with_count([[form(text) in {form(right) for right in each}] for text, each in zip(predictions, references)])
        )

    def values(self, sums: Array) -> Array:
        """Percentage."""
        return 100 * means(sums)
