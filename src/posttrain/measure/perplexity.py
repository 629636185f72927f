"""Perplexity by a sliding window: exp of the mean negative log-likelihood, each token scored exactly once.

A window of W tokens moves by a stride of S, and each token is scored with at least W - S tokens of context;
`posttrain.models.token_losses` says how. The batch size changes nothing beyond the rounding of float32 sums (1e-7 of
the value).

Each record of a data set is a document of its own: no window crosses from one to the next. All tokens weigh alike, so
long documents count for more than short ones; `sequence_perplexity` weighs texts alike. Which special tokens a text
gets is a setting and stands in the signature; the first token of a document has no predecessor and isn't scored, nor
does its text count where the loss is divided by bytes, characters or words.

A model in bfloat16 is measured as it computes: its logits carry 8 bits. `posttrain perplexity --dtype bfloat16
--against-float32` tells what that changes. Left out: masked and encoder-decoder models.
"""

from __future__ import annotations

from typing import ClassVar

from posttrain.measure import Measurement
from posttrain.measure._token_losses import (
    Windowed,
    bits_per_byte,
    exp_interval,
    exp_mean,
    interval,
    signature,
    total,
)
from posttrain.models.language_model import LanguageModel


class Perplexity(Windowed):
    """exp of the mean negative log-likelihood a token, in a sliding window."""

    higher_is_better: ClassVar[bool] = False

    def measure(self, model: LanguageModel) -> Measurement:
        """Score the text.

        The interval is a bootstrap of the mean nats a token.

        Raises:
            BadRequest: If the model isn't causal, the window doesn't fit its context, or the text has under two tokens.
            Failure: If the model's logits aren't numbers.
        """
        scored = self._scored(model, "Perplexity")
        tokens, nll = sum(part.size for part in scored.nats), total(scored.nats)
        value = exp_mean(nll, tokens)
        assert value is not None
        size = sum(each.bytes for each in scored.texts)
        parts = {
            "perplexity": value,
            "nll": nll / tokens,
            "tokens_scored": tokens,
            "bits_per_byte": bits_per_byte(nll, size),
            "byte_perplexity": exp_mean(nll, size),
            "character_perplexity": exp_mean(nll, sum(each.characters for each in scored.texts)),
            "word_perplexity": exp_mean(nll, sum(each.words for each in scored.texts)),
            "unknown_tokens": scored.made["unknown"],
            "special_tokens": scored.made["special"],
            "documents": len(scored.texts),
        }
        return Measurement(
            name="perplexity",
            value=value,
            interval=exp_interval(interval(scored.nats)),
            signature=signature("perplexity", model, scored.made),
            higher_is_better=False,
            parts=parts,
        )
