"""Min-p: keep the tokens that are at least p times as probable as the most probable one.

Nguyen et al., 2024, "Turning Up the Heat: Min-p Sampling for Creative and Coherent LLM Outputs", section 3. Where the
model is sure few tokens are left, where it isn't many.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from posttrain.decode.processors import DecodeState, LogitsProcessor

if TYPE_CHECKING:
    import torch

# A quotient of float32 probabilities that falls short of p by no more than this part has reached it.
_ROUNDING = 1e-6


class MinP(LogitsProcessor):
    """Forbid tokens that are improbable beside the most probable one."""

    neutral: ClassVar[dict[str, Any] | None] = {"p": 0.0}

    p: float = Field(0.05, ge=0, le=1)
    """Smallest share of the highest probability that a token must have; 0 keeps all, 1 only the most probable one."""

    def __call__(self, logits: torch.Tensor, state: DecodeState) -> torch.Tensor:
        if self.p == 0:
            return logits
        shares = (logits - logits.amax(-1, keepdim=True)).exp()  # p(x) / max p
        return logits.masked_fill(shares < self.p * (1 - _ROUNDING), -float("inf"))
