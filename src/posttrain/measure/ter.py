"""TER: edits, shifts of word groups among them, that make a reference of a prediction; equal to sacrebleu.

Snover et al. (2006, "A Study of Translation Edit Rate with Targeted Human Annotation"). A figure of a whole corpus, in
percent of the references' mean length: 0 is best, and it may be above 100.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from posttrain.core.errors import BadRequest
from posttrain.measure import Array, Statistics, totals
from posttrain.measure._sacrebleu import CorpusMetric


class Ter(CorpusMetric):
    """Corpus TER as sacrebleu computes it."""

    higher_is_better: ClassVar[bool] = False

    normalized: bool = False
    """Split off punctuation and normalise characters, as Tercom does."""

    no_punctuation: bool = False
    """Remove punctuation."""

    asian_support: bool = False
    """Treat Chinese, Japanese and Korean characters one by one, where text is normalised or loses punctuation."""

    case_sensitive: bool = False
    """Tell letter cases apart."""

    def statistics(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Statistics:
        """Edits, and the mean length of each text's references.

        Raises:
            BadRequest: If no reference has a word left.
        """
        found = super().statistics(predictions, references)
        if not found.rows[:, 1].any():
            raise BadRequest(
                "No reference has a word after removing punctuation, so there is nothing to divide edits by.",
                "Leave no_punctuation out.",
            )
        return found

    def peer(self) -> Any:
        """sacrebleu's TER."""
        from sacrebleu.metrics.ter import TER

        return TER(
            normalized=self.normalized,
            no_punct=self.no_punctuation,
            asian_support=self.asian_support,
            case_sensitive=self.case_sensitive,
        )

    def parts(self, rows: Array) -> dict[str, Any]:
        """Edits, and the mean length of each text's references, summed."""
        edits, words = totals(rows).tolist()
        return {"edits": int(edits), "reference_words": words}
