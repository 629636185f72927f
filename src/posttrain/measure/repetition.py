"""Repetition: the share of a text's n-grams that occur in it before; high for text caught in a loop.

seq-rep-n of Welleck et al. (2020, "Neural Text Generation with Unlikelihood Training"), the mean over the texts that
are long enough to have n-grams. Words are what blanks part, in lower case.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from posttrain.core.errors import BadRequest
from posttrain.measure import AdditiveMetric, Array, Statistics, means, totals
from posttrain.ops.ngrams import longest_run, repetition_rate


class Repetition(AdditiveMetric):
    """Mean share of repeated n-grams in a text."""

    higher_is_better: ClassVar[bool] = False
    needs_references: ClassVar[bool] = False

    n: int = Field(4, ge=1)
    """Length of the n-grams."""

    def statistics(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Statistics:
        """The share of each text, its longest run of one word, and whether it has n-grams.

        Raises:
            BadRequest: If no text is long enough.
        """
        words = [text.lower().split() for text in predictions]
        if max(map(len, words)) < self.n:
            raise BadRequest(f"No text has {self.n} words, so there are no n-grams of that length.", "Set a smaller n.")
        rows = [
            (repetition_rate(each, self.n), longest_run(each), 1) if len(each) >= self.n else (0, 0, 0)
            for each in words
        ]
        return Statistics(np.array(rows, dtype=np.float64))

    def values(self, sums: Array) -> Array:
        """Mean share."""
        return means(sums)

    def parts(self, rows: Array) -> dict[str, Any]:
        """The mean longest run of one word, and how many texts have n-grams."""
        _, runs, long_enough = totals(rows).tolist()
        return {"longest_run": runs / long_enough, "long_enough": int(long_enough)}
