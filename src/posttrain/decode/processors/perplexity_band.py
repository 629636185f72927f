"""Perplexity band: the temperature of each token at which what is drawn is neither too surprising nor too plain.

Let p be the distribution of the scores as they reach this processor, and q_b = p^b / sum p^b the same at temperature
1/b. The expected surprisal of a draw, as p judges it,

    S(b) = - sum q_b log p,      dS/db = - Var_q(log p) <= 0,

falls from the mean over all tokens to -log max p. Where exp S(1) lies inside the band, nothing changes. Otherwise b is
found by Newton's method within brackets so that exp S(b) is the band's nearer end. Where no temperature is low enough,
the likeliest token alone is left.

As Mirostat (Basu et al., 2021, "Mirostat: A Neural Text Decoding Algorithm that Directly Controls Perplexity") it holds
the perplexity of what is written, but token by token and without feedback: a text's perplexity comes to lie inside the
band as the mean of its tokens' expectations. The lower end is reached only as far as `hottest` allows, for where one
token is right a higher temperature draws wrong ones.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from pydantic import Field, model_validator

from posttrain.decode.processors import DecodeState, LogitsProcessor
from posttrain.decode.processors._by_row import divide

if TYPE_CHECKING:
    from torch import Tensor

# Nats by which the expected surprisal may miss the end of the band.
_TOLERANCE = 1e-4
# No temperature below the inverse of this is looked at; there the likeliest token is nearly certain.
_COLDEST = 1e3
_ROUNDS = 60


class PerplexityBand(LogitsProcessor):
    """Choose each token's temperature so that the expected perplexity stays between two ends."""

    neutral: ClassVar[dict[str, Any] | None] = {"low": 1.0, "high": None}

    low: float = Field(2.0, ge=1, allow_inf_nan=False)
    """The lower end: what is plainer is drawn at a higher temperature; 1 for none."""

    high: float | None = Field(20.0, gt=1, allow_inf_nan=False)
    """The upper end: what is more surprising is drawn at a lower temperature; null for none."""

    hottest: float = Field(1.5, ge=1, allow_inf_nan=False)
    """The highest temperature that may be used to reach the lower end."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.high is not None and self.low > self.high:
            raise ValueError(f"low {self.low:g} is above high {self.high:g}")
        return self

    def __call__(self, logits: Tensor, state: DecodeState) -> Tensor:
        logprobs = logits.log_softmax(-1)
        surprisal, _ = _moments(logprobs, torch.ones_like(logprobs[:, 0]))
        wanted = surprisal.clamp(math.log(self.low), None if self.high is None else math.log(self.high))
        outside = (surprisal - wanted).abs() > _TOLERANCE
        if not bool(outside.any()):
            return logits
        temperatures = torch.ones_like(surprisal)
        temperatures[outside] = self._temperatures(logprobs[outside], surprisal[outside], wanted[outside])
        return torch.where(outside[:, None], divide(logits, temperatures), logits)

    def _temperatures(self, logprobs: Tensor, surprisal: Tensor, wanted: Tensor) -> Tensor:
        """The temperatures at which the expected surprisals are the wanted ones: [B] of [B, V]; 0 where none is."""
        cooler = surprisal > wanted
        # S falls in b: the answer lies between these two.
        below = torch.where(cooler, 1.0, 1 / self.hottest)
        above = torch.where(cooler, _COLDEST, 1.0)
        inverse = torch.ones_like(surprisal)
        open_ = torch.ones_like(cooler)
        for _ in range(_ROUNDS):
            value, variance = _moments(logprobs, inverse)
            # Rows that are done stay as they are, so that none depends on how long another takes.
            open_ &= (value - wanted).abs() > _TOLERANCE
            open_ &= (above - below) > 1e-6 * above
            if not bool(open_.any()):
                break
            below = torch.where(open_ & (value > wanted), inverse, below)
            above = torch.where(open_ & (value < wanted), inverse, above)
            newton = inverse + (value - wanted) / variance.clamp(min=1e-12)
            middle = (below * above).sqrt()
            inside = (newton > below) & (newton < above)
            inverse = torch.where(open_, torch.where(inside, newton, middle), inverse)
        never = -logprobs.amax(-1) >= wanted
        return torch.where(cooler & never, 0.0, 1 / inverse.clamp(min=1 / self.hottest))


def _moments(logprobs: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of -log p and its variance under p^b / sum p^b: [B] of [B, V] and b [B]."""
    shares = (logprobs * inverse[:, None]).softmax(-1)
    information = -logprobs.masked_fill(shares == 0, 0)  # 0 for what is never drawn, so that no 0 · inf arises
    mean = (shares * information).sum(-1)
    return mean, (shares * (information - mean[:, None]).square()).sum(-1)
