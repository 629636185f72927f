"""Top-p, or nucleus: keep the smallest set of tokens whose probabilities add up to at least p.

Holtzman et al., 2020, "The Curious Case of Neural Text Degeneration", section 3.1. The token that crosses p is kept.
Of equally probable tokens at the edge, as many as are needed are kept, those with the lowest ids, as in greedy search.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from posttrain.decode.processors import DecodeState, LogitsProcessor

if TYPE_CHECKING:
    import torch

# A sum of float32 probabilities that falls short of p by no more than this has reached it.
_ROUNDING = 2e-7

# The nucleus is looked for among so many of the most probable tokens first; a full sort is slow.
_CANDIDATES = 256


class TopP(LogitsProcessor):
    """Forbid the tail that holds less than 1 - p of the probability."""

    neutral: ClassVar[dict[str, Any] | None] = {"p": 1.0}

    p: float = Field(0.9, gt=0, le=1)
    """Probability the kept tokens must hold together; 1 keeps all."""

    def __call__(self, logits: torch.Tensor, state: DecodeState) -> torch.Tensor:
        if self.p == 1:
            return logits
        top = logits.topk(min(_CANDIDATES, logits.shape[-1]), dim=-1).values  # [B, K], descending
        if (kept := self._kept(logits, top)) is None:
            top = logits.sort(dim=-1, descending=True).values
            kept = self._kept(logits, top, whole=True)
        assert kept is not None
        keep = logits >= top.gather(-1, kept - 1)
        if bool((keep.sum(-1, keepdim=True) > kept).any()):  # ties at the edge
            order = logits.sort(dim=-1, descending=True, stable=True).indices
            keep = order.argsort(-1) < kept
        return logits.masked_fill(~keep, -float("inf"))

    def _kept(self, logits: torch.Tensor, top: torch.Tensor, whole: bool = False) -> torch.Tensor | None:
        """Size of each row's nucleus, [B, 1]; None if one isn't within `top` and `top` isn't the whole vocabulary."""
        highest = top[..., :1]
        mass = (top - highest).exp().double().cumsum(-1) / (logits - highest).exp().sum(-1, keepdim=True)
        reached = mass >= self.p - _ROUNDING
        if not whole and not bool(reached[..., -1].all()):
            return None
        return ((~reached).sum(-1, keepdim=True) + 1).clamp(max=top.shape[-1])
