"""Locally typical sampling: keep the tokens whose information is nearest to what is expected.

Meister et al., 2023, "Locally Typical Sampling", section 4: with H the entropy of the distribution, tokens are taken in
the order of |-log p(x) - H| until their probabilities add up to at least p. So the most probable tokens may be left out
too. Tokens as near as the last one that is needed are kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from posttrain.decode.processors import DecodeState, LogitsProcessor

if TYPE_CHECKING:
    import torch

# A sum of float32 probabilities that falls short of p by no more than this has reached it.
_ROUNDING = 2e-7

# The tokens to keep are looked for among so many of the nearest ones first; a full sort is slow.
_CANDIDATES = 256


class Typical(LogitsProcessor):
    """Forbid tokens that say much more or much less than is expected."""

    neutral: ClassVar[dict[str, Any] | None] = {"p": 1.0}

    p: float = Field(0.9, gt=0, le=1)
    """Probability the kept tokens must hold together; 1 keeps all."""

    def __call__(self, logits: torch.Tensor, state: DecodeState) -> torch.Tensor:
        if self.p == 1:
            return logits
        logprobs = logits.log_softmax(-1)
        probabilities = logprobs.exp()
        entropy = -(probabilities * logprobs.masked_fill(probabilities == 0, 0)).sum(-1, keepdim=True)
        distance = (-logprobs - entropy).abs()  # [B, V]; infinite for forbidden tokens
        for count in (min(_CANDIDATES, logits.shape[-1]), logits.shape[-1]):
            nearest = distance.topk(count, dim=-1, largest=False)  # [B, count], ascending
            mass = probabilities.gather(-1, nearest.indices).double().cumsum(-1)
            if bool((mass[:, -1] >= self.p).all()):
                break
        needed = (mass < self.p - _ROUNDING).sum(-1, keepdim=True).clamp(max=count - 1)
        return logits.masked_fill(distance > nearest.values.gather(-1, needed), -float("inf"))
