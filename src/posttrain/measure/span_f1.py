"""F1 of spans in tag sequences, micro-averaged over the kinds of spans (named-entity recognition, CoNLL-2003).

A prediction and its reference are the tags of one sentence, separated by blanks: ``B-PER I-PER O``. A span counts as
found when kind, first and last word are right. Equal to seqeval's by default and, with `strict`, to seqeval's strict
mode under IOB2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from posttrain import __version__
from posttrain.core.errors import BadRequest
from posttrain.measure import Measurement, TextMetric
from posttrain.ops.bootstrap import ratio_interval
from posttrain.ops.spans import count_spans, mark_spans

# Percentile intervals from fewer sentences than this are too narrow.
_FEWEST_ITEMS = 20


class SpanF1(TextMetric):
    """F1 of the spans that B-, I-, E- and S- tags mark."""

    higher_is_better: ClassVar[bool] = True

    strict: bool = False
    """Take no span that doesn't begin with B (IOB2); otherwise any change of kind begins one, as conlleval has it."""

    def score(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Measurement:
        """Compare the tags of sentences.

        The interval is a bootstrap over the sentences that have spans.

        Raises:
            BadRequest: If a row has not one reference, other than as many tags, or tags of another form.
        """
        if len(predictions) != len(references) or any(len(each) != 1 for each in references):
            raise BadRequest("Tags are compared with exactly one reference a sentence.")
        ours = [text.split() for text in predictions]
        theirs = [each[0].split() for each in references]
        for number, (a, b) in enumerate(zip(ours, theirs), 1):
            if not mark_spans([*a, *b]):
                raise BadRequest(f"Sentence {number} has tags that mark no spans.", "Write O, B-KIND and I-KIND.")
            if len(a) != len(b):
                raise BadRequest(f"Sentence {number} has {len(a)} tags, its reference {len(b)}.")
        counts = count_spans(ours, theirs, self.strict)
        interval = None
        each = [count_spans([a], [b], self.strict) for a, b in zip(ours, theirs)]
        telling = [one for one in each if one.predicted + one.actual]  # others add nothing to either side
        if len(telling) >= _FEWEST_ITEMS:
            found = ratio_interval(
                [2.0 * one.correct for one in telling], [float(one.predicted + one.actual) for one in telling]
            )
            interval = (found.low, found.high)
        return Measurement(
            name="span_f1",
            value=counts.f1,
            interval=interval,
            signature=f"span_f1|strict:{self.strict}|sentences:{len(ours)}|posttrain:{__version__}",
            parts={"precision": counts.precision, "recall": counts.recall, **vars(counts), "sentences": len(ours)},
        )
