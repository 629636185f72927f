"""Sequence-normalised perplexity: each text by its own length first, then the mean over texts, so that all weigh alike.

With nll_i the mean negative log-likelihood a token of text i, the value is exp of the mean of all nll_i, the geometric
mean of the texts' perplexities; `average: arithmetic` takes the mean of exp(nll_i), as Hugging Face's `evaluate` does
(its `mean_perplexity`), which a few unpredictable texts dominate.

It isn't the perplexity of the corpus. That one is exp(sum of nats / sum of tokens): every token weighs alike and long
texts count for more. The two agree only where all texts are equally long or equally predictable, so they have different
names and signatures. Take this one where texts are the items: prompts, sentences, rows of a data set.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import numpy as np

from posttrain.core.errors import Failure
from posttrain.measure import FEWEST_ITEMS, Measurement
from posttrain.measure._token_losses import Windowed, exp_interval, exp_mean, signature, total
from posttrain.models.language_model import LanguageModel
from posttrain.ops.bootstrap import mean_interval


class SequencePerplexity(Windowed):
    """The mean over texts of what each one's own perplexity is."""

    higher_is_better: ClassVar[bool] = False

    lines: bool = True
    """Take each line of a plain text as a text of its own; otherwise a file is one text."""

    average: Literal["geometric", "arithmetic"] = "geometric"
    """The mean that is taken of the texts' perplexities."""

    def measure(self, model: LanguageModel) -> Measurement:
        """Score the texts.

        The interval is a bootstrap over texts; there is none for fewer than 20.

        Raises:
            BadRequest: If the model isn't causal, the window doesn't fit its context, or no text has two tokens.
            Failure: If the model's logits aren't numbers.
        """
        scored = self._scored(model, "Sequence perplexity")
        means = np.array([part.mean(dtype=np.float64) for part in scored.nats])
        with np.errstate(over="ignore"):  # a text that hardly can be has an infinite perplexity, and so has the mean
            single = np.exp(means)
        geometric, arithmetic = exp_mean(float(means.sum()), len(means)), float(single.mean())
        spread = None
        if len(means) >= FEWEST_ITEMS and self.average == "geometric":
            found = mean_interval(means)
            spread = exp_interval((found.low, found.high))
        elif len(means) >= FEWEST_ITEMS and math.isfinite(arithmetic):
            found = mean_interval(single)
            spread = found.low, found.high
        tokens = sum(part.size for part in scored.nats)
        value = geometric if self.average == "geometric" else arithmetic
        if value is None or not math.isfinite(value):
            raise Failure(
                f"The {self.average} mean of the texts' perplexities is no number: one text costs {means.max():.4g} "
                "nats a token.",
                "Check the model's weights, or take the geometric mean.",
            )
        parts = {
            "sequence_perplexity": value,
            "nll": float(means.mean()),
            "geometric_mean": geometric,
            "arithmetic_mean": arithmetic,
            "median": float(np.median(single)),
            "corpus_perplexity": exp_mean(total(scored.nats), tokens),
            "tokens_scored": tokens,
            "texts": len(means),
            "unknown_tokens": scored.made["unknown"],
            "special_tokens": scored.made["special"],
        }
        return Measurement(
            name="sequence_perplexity",
            value=value,
            interval=spread,
            signature=signature("sequence_perplexity", model, {"average": self.average, **scored.made}),
            higher_is_better=False,
            parts=parts,
        )
