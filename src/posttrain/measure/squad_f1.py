"""SQuAD F1: the words that an answer shares with the nearest right one, as SQuAD counts them.

Rajpurkar et al. (2016, "SQuAD: 100,000+ Questions for Machine Comprehension of Text"): without case, punctuation and
articles, the best of several references, mean over the answers, in percent. A blank reference means that there is no
answer; then only a blank prediction is right (Rajpurkar et al., 2018).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from posttrain.measure import AdditiveMetric, Array, Statistics, means, with_count
from posttrain.ops.answers import token_f1


class SquadF1(AdditiveMetric):
    """Mean F1 of the words of answers, in percent."""

    higher_is_better: ClassVar[bool] = True
    blank_references: ClassVar[bool] = True

    def statistics(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Statistics:
        """The F1 of each answer."""
        return Statistics(
            with_count([[max(token_f1(text, right) for right in each)] for text, each in zip(predictions, references)])
        )

    def values(self, sums: Array) -> Array:
        """Mean F1 in percent."""
        return 100 * means(sums)
