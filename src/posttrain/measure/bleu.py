"""BLEU: n-grams of predictions that occur in references, with a penalty for brevity; equal to sacrebleu.

Papineni et al. (2002); smoothing as compared by Chen and Cherry (2014). A figure of a whole corpus, from 0 to 100.
Weights of the orders other than equal ones aren't sacrebleu's: then its precisions and brevity penalty are used. Texts
so short that even the references have no n-gram of the highest order are refused, because the figure would be 0
whatever was predicted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from posttrain.core.errors import BadRequest, Failure
from posttrain.measure import Array, Statistics, totals
from posttrain.measure._sacrebleu import CorpusMetric


class Bleu(CorpusMetric):
    """Corpus BLEU as sacrebleu computes it."""

    higher_is_better: ClassVar[bool] = True

    max_order: int = Field(4, ge=1, le=9)
    """Longest n-grams that are counted."""

    weights: list[float] | None = None
    """Weight of each order's precision, one a number up to max_order; equal weights when not given."""

    smoothing: Literal["exp", "floor", "add-k", "none"] = "exp"
    """What stands for the precision of an order without any match."""

    smoothing_value: float | None = Field(None, gt=0)
    """The constant of floor (0.1 when not given) and add-k (1)."""

    tokenizer: Literal["13a", "intl", "char", "zh", "none", "ja-mecab", "ko-mecab", "spm", "flores101", "flores200"] = (
        "13a"
    )
    """How texts become words; the last five need a package or a file that sacrebleu names."""

    lowercase: bool = False
    """Ignore letter case."""

    effective_order: bool = False
    """Leave out orders that no prediction is long enough for, as for the BLEU of single sentences."""

    def peer(self) -> Any:
        """sacrebleu's BLEU.

        Raises:
            Failure: If the tokenizer needs something that isn't there.
        """
        from sacrebleu.metrics.bleu import BLEU

        try:
            return BLEU(
                lowercase=self.lowercase,
                force=True,
                tokenize=self.tokenizer,
                smooth_method=self.smoothing,
                smooth_value=self.smoothing_value,
                max_ngram_order=self.max_order,
                effective_order=self.effective_order,
            )
        except (RuntimeError, ImportError, OSError) as error:
            why = " ".join(str(error).split())
            raise Failure(f"sacrebleu's tokenizer {self.tokenizer} can't be used: {why}") from error

    def statistics(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Statistics:
        """Lengths, then matches and n-grams of each order.

        Raises:
            BadRequest: If the references have no n-gram of the highest order, or there isn't one weight an order.
        """
        if self.weights is not None and not self._fits(self.weights):
            raise BadRequest(
                f"BLEU with n-grams up to {self.max_order} takes {self.max_order} weights, none below 0 and not all 0, "
                f"not {self.weights}."
            )
        found = super().statistics(predictions, references)
        if not self.effective_order and not found.rows[:, -1].any():
            peer = self.peer()
            words = (peer._preprocess_segment(text).split() for each in references for text in each)
            if all(len(each) < self.max_order for each in words):
                raise BadRequest(
                    f"No reference has {self.max_order} words, so there are no n-grams of that length, and BLEU says "
                    "nothing.",
                    "Set effective_order=true, or a smaller max_order.",
                )
        return found

    def _fits(self, weights: Sequence[float]) -> bool:
        """Whether there is one weight an order and a mean can be taken with them."""
        return len(weights) == self.max_order and min(weights) >= 0 and 0 < sum(weights) < math.inf

    def score_of(self, peer: Any, sums: list[float]) -> float:
        """The value of one sum."""
        found = peer._compute_score_from_stats(sums)
        if self.weights is None:
            return float(found.score)
        totals = sums[2 + self.max_order :]
        orders = next((n for n, total in enumerate(totals) if total == 0), self.max_order)
        used = orders if self.effective_order else self.max_order
        return float(found.bp * weighted_mean(found.precisions[:used], self.weights[:used]))

    def parts(self, rows: Array) -> dict[str, Any]:
        """Precisions in percent, brevity penalty, and the words of predictions and nearest references."""
        found = self.peer()._compute_score_from_stats(totals(rows).tolist())
        return {
            "precisions": [float(each) for each in found.precisions],
            "brevity_penalty": float(found.bp),
            "length_ratio": float(found.ratio),
            "prediction_words": found.sys_len,
            "reference_words": found.ref_len,
        }


def weighted_mean(precisions: Sequence[float], weights: Sequence[float]) -> float:
    """The geometric mean of precisions; 0 where one of them is 0 and weighs anything."""
    weighing = [(p, w) for p, w in zip(precisions, weights) if w]
    if not weighing or any(p <= 0 for p, _ in weighing):
        return 0.0
    total = sum(w for _, w in weighing)
    return math.exp(sum(w * math.log(p) for p, w in weighing) / total)
