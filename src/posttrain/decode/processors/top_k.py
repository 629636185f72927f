"""Top-k: keep the k most probable tokens (Fan, Lewis and Dauphin, 2018, "Hierarchical Neural Story Generation").

Tokens that tie with the k-th are kept too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from posttrain.decode.processors import DecodeState, LogitsProcessor

if TYPE_CHECKING:
    import torch


class TopK(LogitsProcessor):
    """Forbid all but the k most probable tokens."""

    neutral: ClassVar[dict[str, Any] | None] = {"k": 0}

    k: int = Field(50, ge=0)
    """How many tokens to keep; 0 keeps all."""

    def __call__(self, logits: torch.Tensor, state: DecodeState) -> torch.Tensor:
        if self.k == 0 or self.k >= logits.shape[-1]:
            return logits
        smallest = logits.topk(self.k, dim=-1).values[..., -1:]  # [B, 1]
        return logits.masked_fill(logits < smallest, -float("inf"))
