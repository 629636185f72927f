"""Distinct-n: how many different n-grams texts have, as a share of all their n-grams.

Li et al. (2016, "A Diversity-Promoting Objective Function for Neural Conversation Models"). It falls with the amount of
text, so only sets of like size may be compared. Words are what blanks part, in lower case. The interval comes from
leaving out one text at a time (jackknife; Efron and Tibshirani, 1993, chapter 11): texts drawn anew would repeat each
other and look less diverse than they are. For the same reason there is no paired test.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from posttrain.core.errors import BadRequest
from posttrain.measure import FEWEST_ITEMS, Array, Statistics, TextMetric
from posttrain.ops.bootstrap import Interval
from posttrain.ops.ngrams import count

# Standard errors on either side of a value that 95 % of normal values lie in.
_NORMAL_95 = 1.959964


class DistinctN(TextMetric):
    """Share of different n-grams over all texts."""

    higher_is_better: ClassVar[bool] = True
    needs_references: ClassVar[bool] = False

    n: int = Field(2, ge=1)
    """Length of the n-grams."""

    def statistics(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Statistics:
        """The n-grams of each text, those that no other text has, and those that no earlier one has.

        The rows are about this set of texts; those of several sets can't be put end to end.

        Raises:
            BadRequest: If no text is long enough.
        """
        counts = [count(text.lower().split(), self.n) for text in predictions]
        texts_with = Counter(each for counted in counts for each in counted)
        if not texts_with:
            raise BadRequest(f"No text has {self.n} words, so there are no n-grams of that length.", "Set a smaller n.")
        seen: set[Any] = set()
        rows = []
        for counted in counts:
            alone = sum(texts_with[each] == 1 for each in counted)
            rows.append((counted.total(), alone, len(counted.keys() - seen)))
            seen |= counted.keys()
        return Statistics(np.array(rows, dtype=np.float64))

    def value(self, rows: Array) -> float:
        """Different n-grams by all n-grams."""
        return float(rows[:, 2].sum() / rows[:, 0].sum())

    def parts(self, rows: Array) -> dict[str, Any]:
        """The numbers of n-grams."""
        return {"ngrams": int(rows[:, 0].sum()), "different": int(rows[:, 2].sum())}

    def interval(self, rows: Array, seed: int) -> Interval | None:
        """The value and 1.96 jackknife standard errors on either side, within [0, 1]."""
        total, _, different = rows.sum(0)
        left = total - rows[:, 0]
        if len(rows) < FEWEST_ITEMS or not left.all():
            return None
        without = (different - rows[:, 1]) / left  # without a text its own n-grams are gone
        error = np.sqrt((len(rows) - 1) / len(rows) * ((without - without.mean()) ** 2).sum())
        value = different / total
        low, high = max(0.0, value - _NORMAL_95 * error), min(1.0, value + _NORMAL_95 * error)
        return Interval(float(value), float(low), float(high), 0.95, len(rows), float(error))
