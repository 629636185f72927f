"""Self-BLEU: the mean BLEU of each text against all the others; high where texts repeat each other.

Zhu et al. (2018, "Texygen: A Benchmarking Platform for Text Generation Models"). Each BLEU is sacrebleu's of a single
sentence: tokenizer 13a, exponential smoothing, effective order, from 0 to 100. The n-grams of all texts are counted
once; what a text finds in the others is the largest count of another one, so the work grows with the number of texts
and not with its square. The interval is over texts, each compared with this set.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from typing import Any, ClassVar

from pydantic import Field

from posttrain.core.errors import BadRequest
from posttrain.measure import AdditiveMetric, Array, Statistics, means, with_count
from posttrain.ops.ngrams import ngrams


class SelfBleu(AdditiveMetric):
    """How much texts have in common with each other."""

    higher_is_better: ClassVar[bool] = False
    needs_references: ClassVar[bool] = False

    max_order: int = Field(4, ge=1, le=9)
    """Longest n-grams that are counted."""

    lowercase: bool = False
    """Ignore letter case."""

    def statistics(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Statistics:
        """The BLEU of each text against the others.

        Raises:
            BadRequest: If there is one text only, or no text has any words.
        """
        from sacrebleu.metrics.bleu import BLEU

        peer = BLEU(lowercase=self.lowercase, force=True, max_ngram_order=self.max_order, effective_order=True)
        words = [peer._preprocess_segment(text).split() for text in predictions]
        if len(words) < 2:
            raise BadRequest("There is one text only, so there is nothing to compare it with.")
        if not any(words):
            raise BadRequest("The texts have no words.")
        peer.num_refs = len(words) - 1
        found = [[self._bleu(peer, each)] for each in leave_one_out(words, self.max_order)]
        return Statistics(with_count(found), str(peer.get_signature()))

    def _bleu(self, peer: Any, statistics: list[int]) -> float:
        return float(peer._compute_score_from_stats(statistics).score)

    def values(self, sums: Array) -> Array:
        """Mean BLEU."""
        return means(sums)


def leave_one_out(texts: Sequence[Sequence[str]], max_order: int) -> list[list[int]]:
    """BLEU's statistics of each text against all the others.

    Args:
        texts: At least two lists of words.
        max_order: Longest n-grams.

    Returns:
        For each text its length, the nearest length of another (of two the shorter), the matches of each order and the
        n-grams of each order.
    """
    counts = [Counter(chain.from_iterable(ngrams(text, n) for n in range(1, max_order + 1))) for text in texts]
    # n-gram -> the largest count, whose it is, and the largest of all other texts
    most: dict[Any, tuple[int, int, int]] = {}
    for owner, counted in enumerate(counts):
        for each, count in counted.items():
            first, whose, second = most.get(each, (0, -1, 0))
            if count > first:
                most[each] = (count, owner, first)
            elif count > second:
                most[each] = (first, whose, count)
    lengths = sorted(map(len, texts))
    found = []
    for owner, (text, counted) in enumerate(zip(texts, counts)):
        matches = [0] * max_order
        for each, count in counted.items():
            first, whose, second = most[each]
            matches[len(each) - 1] += min(count, second if whose == owner else first)
        totals = [max(0, len(text) - n) for n in range(max_order)]
        found.append([len(text), _nearest_other(lengths, len(text)), *matches, *totals])
    return found


def _nearest_other(lengths: Sequence[int], own: int) -> int:
    """The nearest to one of the sorted lengths among all the others."""
    place = bisect_left(lengths, own)
    others = [*lengths[max(0, place - 1) : place], *lengths[place + 1 : place + 2]]
    return min(others, key=lambda length: (abs(length - own), length))
