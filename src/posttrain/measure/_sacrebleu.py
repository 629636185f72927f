"""What the metrics that sacrebleu computes share: its statistics a text, its score of their sums, its signature.

Post (2018, "A Call for Clarity in Reporting BLEU Scores"). sacrebleu splits every corpus score into integers a sentence
and a score of their sums; both are taken from it, so values are equal to its own and intervals cost no second scoring.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from posttrain.core import catalog, events
from posttrain.measure import AdditiveMetric, Array, Statistics

# Texts between two reports of progress.
_CHUNK = 500


class CorpusMetric(AdditiveMetric):
    """A corpus-level metric of sacrebleu."""

    @abstractmethod
    def peer(self) -> Any:
        """sacrebleu's metric with these settings; its constructor may raise what sacrebleu raises."""

    def statistics(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Statistics:
        """sacrebleu's statistics of each text."""
        peer = self.peer()
        rows: list[list[float]] = []
        numbers = {len(each) for each in references}
        with events.task(catalog.term_of(self), total=len(predictions), unit="texts") as progress:
            for start in range(0, len(predictions), _CHUNK):
                texts, theirs = predictions[start : start + _CHUNK], references[start : start + _CHUNK]
                # One stream for each number of reference, with None where a text has fewer.
                streams = [
                    [each[number] if number < len(each) else None for each in theirs] for number in range(max(numbers))
                ]
                rows += peer._extract_corpus_statistics(texts, streams)
                progress.advance(len(texts))
        peer.num_refs = numbers.pop() if len(numbers) == 1 else -1  # its signature says `var` for -1
        return Statistics(np.asarray(rows, dtype=np.float64), str(peer.get_signature()))

    def values(self, sums: Array) -> Array:
        """sacrebleu's score of each sum."""
        peer = self.peer()
        return np.array([self.score_of(peer, row) for row in sums.tolist()])

    def score_of(self, peer: Any, sums: list[float]) -> float:
        """The value of one sum, a list because sacrebleu changes what it is given."""
        return float(peer._compute_score_from_stats(sums).score)
