"""Fewest new tokens: no token that ends a text before it has so many.

Where a row has nothing else left, it keeps what it had. Stop strings aren't looked at.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field

from posttrain.decode.processors import DecodeState, LogitsProcessor, forbid


class MinNewTokens(LogitsProcessor):
    """Forbid the end of a text that is too short."""

    neutral: ClassVar[dict[str, Any] | None] = {"count": 0}

    count: int = Field(16, ge=0)
    """Tokens a text must have before it may end."""

    def __call__(self, logits: torch.Tensor, state: DecodeState) -> torch.Tensor:
        short = [len(generated) < self.count for generated in state.generated]
        ends = [token for token in state.eos_ids if token < logits.shape[1]]
        if not ends or not any(short):
            return logits
        forbidden = torch.zeros_like(logits, dtype=torch.bool)
        forbidden[:, ends] = torch.tensor(short, device=logits.device)[:, None]
        return forbid(logits, forbidden)
