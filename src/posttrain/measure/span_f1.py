"""F1 of spans in tag sequences, micro-averaged over the kinds of spans (named-entity recognition, CoNLL-2003).

A prediction and its reference are the tags of one sentence, separated by blanks: ``B-PER I-PER O``. A span counts as
found when kind, first and last word are right. Equal to seqeval's by default and, with `strict`, to seqeval's strict
mode under IOB2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from posttrain.core.errors import BadRequest
from posttrain.measure import AdditiveMetric, Array, Statistics, totals
from posttrain.ops.spans import SpanCounts, count_spans, mark_spans


class SpanF1(AdditiveMetric):
    """F1 of the spans that B-, I-, E- and S- tags mark."""

    higher_is_better: ClassVar[bool] = True

    strict: bool = False
    """Take no span that doesn't begin with B (IOB2); otherwise any change of kind begins one, as conlleval has it."""

    def statistics(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Statistics:
        """Correct, predicted and actual spans of each sentence; those without spans are rows of zeros.

        Raises:
            BadRequest: If a row has not one reference, other than as many tags, or tags of another form, or no row
                marks a span.
        """
        if any(len(each) != 1 for each in references):
            raise BadRequest("Tags are compared with exactly one reference a sentence.")
        ours = [text.split() for text in predictions]
        theirs = [each[0].split() for each in references]
        for number, (a, b) in enumerate(zip(ours, theirs), 1):
            if not mark_spans([*a, *b]):
                raise BadRequest(f"Sentence {number} has tags that mark no spans.", "Write O, B-KIND and I-KIND.")
            if len(a) != len(b):
                raise BadRequest(f"Sentence {number} has {len(a)} tags, its reference {len(b)}.")
        counts = [count_spans([a], [b], self.strict) for a, b in zip(ours, theirs)]
        if not any(each.predicted or each.actual for each in counts):
            raise BadRequest("Neither predictions nor references mark a span, so there is no F1.")
        return Statistics(np.array([(c.correct, c.predicted, c.actual) for c in counts], dtype=np.float64))

    def values(self, sums: Array) -> Array:
        """F1; 0 where there is nothing to find and nothing predicted."""
        both = sums[:, 1] + sums[:, 2]
        return np.divide(2 * sums[:, 0], both, out=np.zeros(len(sums)), where=both > 0)

    def parts(self, rows: Array) -> dict[str, Any]:
        """Precision, recall, F1 and the numbers of spans."""
        counts = SpanCounts(*(int(each) for each in totals(rows)))
        return {"precision": counts.precision, "recall": counts.recall, "f1": counts.f1, **vars(counts)}
