"""chrF: F-score of character n-grams, and chrF++ with word n-grams too; equal to sacrebleu.

Popović (2015, "chrF: character n-gram F-score for automatic MT evaluation"; 2017, "chrF++: words helping character
n-grams"). A figure of a whole corpus, from 0 to 100; of several references the one with the best F-score counts.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from posttrain.measure._sacrebleu import CorpusMetric


class Chrf(CorpusMetric):
    """Corpus chrF as sacrebleu computes it."""

    higher_is_better: ClassVar[bool] = True

    char_order: int = Field(6, ge=1)
    """Longest character n-grams."""

    word_order: int = Field(0, ge=0)
    """Longest word n-grams; 2 is chrF++."""

    beta: int = Field(2, ge=1)
    """How many times as much recall weighs as precision."""

    lowercase: bool = False
    """Ignore letter case."""

    whitespace: bool = False
    """Count blanks as characters."""

    eps_smoothing: bool = False
    """Smooth by a small number, as chrF++.py, Moses and NLTK do; otherwise by leaving out empty orders."""

    def peer(self) -> Any:
        """sacrebleu's CHRF."""
        from sacrebleu.metrics.chrf import CHRF

        return CHRF(
            char_order=self.char_order,
            word_order=self.word_order,
            beta=self.beta,
            lowercase=self.lowercase,
            whitespace=self.whitespace,
            eps_smoothing=self.eps_smoothing,
        )
