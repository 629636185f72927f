"""Spans in tag sequences: what B-, I-, E- and S- tags say, and how many of the right spans were found.

A span is its kind with its first and last word. Read leniently, as conlleval and seqeval by default do, any change of
kind begins a span, so that I-PER after O is one. Read strictly by IOB2, a span is a B- tag with the I- tags of its kind
that follow, and an I- tag without one belongs to no span. Left out: other schemes read strictly.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Span = tuple[str, int, int]
"""Kind, first word, last word."""

_TAG = re.compile(r"O|[BIES]-.+")


def mark_spans(tags: Iterable[str]) -> bool:
    """Whether tags are of the kind that marks spans (O, B-PER …) and not one class a word."""
    return all(_TAG.fullmatch(tag) for tag in tags)


def spans(tags: Sequence[str], strict: bool = False) -> set[Span]:
    """The spans that the tags of a sentence mark.

    Args:
        tags: O or a prefix of B, I, E and S, a dash, and a kind.
        strict: Read as IOB2, and take no span that doesn't begin with B.
    """
    found: set[Span] = set()
    begin, before, kind = -1, "O", ""  # the open span's first word, or -1; the last tag's prefix and kind
    for index, tag in enumerate([*tags, "O"]):
        prefix, _, own = tag.partition("-")
        if begin >= 0 and (prefix in "BSO" or before in "ES" or own != kind):
            found.add((kind, begin, index - 1))
            begin = -1
        if begin < 0 and (prefix == "B" if strict else prefix != "O"):
            begin = index
        before, kind = prefix, own
    return found


@dataclass(frozen=True)
class SpanCounts:
    """How many spans were predicted, how many there are, and how many are in both."""

    correct: int
    predicted: int
    actual: int

    @property
    def precision(self) -> float:
        """Share of the predicted spans that are right; 0 where none was predicted."""
        return self.correct / self.predicted if self.predicted else 0.0

    @property
    def recall(self) -> float:
        """Share of the spans that were found; 0 where there are none."""
        return self.correct / self.actual if self.actual else 0.0

    @property
    def f1(self) -> float:
        """Harmonic mean of the two; 0 where there is nothing to find and nothing predicted."""
        both = self.predicted + self.actual
        return 2 * self.correct / both if both else 0.0


def count_spans(
    predicted: Iterable[Sequence[str]], actual: Iterable[Sequence[str]], strict: bool = False
) -> SpanCounts:
    """Counts over sentences, micro-averaged over the kinds.

    Args:
        predicted: Tags of each sentence.
        actual: The right ones, as many.
        strict: See `spans`.
    """
    pairs = [(spans(ours, strict), spans(theirs, strict)) for ours, theirs in zip(predicted, actual, strict=True)]
    return SpanCounts(
        sum(len(ours & theirs) for ours, theirs in pairs),
        sum(len(ours) for ours, _ in pairs),
        sum(len(theirs) for _, theirs in pairs),
    )
