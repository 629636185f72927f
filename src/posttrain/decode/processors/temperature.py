"""Temperature: divide the scores by τ, so that p = softmax(z / τ) (Ackley, Hinton and Sejnowski, 1985).

τ below 1 sharpens the distribution, above 1 flattens it; its entropy rises with τ. The limits: τ → 0 leaves the most
probable token alone, τ → ∞ makes all tokens that aren't forbidden equally probable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from posttrain.decode.processors import DecodeState, LogitsProcessor
from posttrain.decode.processors._by_row import divide

if TYPE_CHECKING:
    import torch


class Temperature(LogitsProcessor):
    """Sharpen or flatten the distribution."""

    neutral: ClassVar[dict[str, Any] | None] = {"temperature": 1.0}

    temperature: float = Field(0.7, ge=0, allow_inf_nan=False)
    """τ: 1 leaves the model's distribution, less sharpens it, 0 takes the most probable token, more flattens it."""

    def __call__(self, logits: torch.Tensor, state: DecodeState) -> torch.Tensor:
        if self.temperature == 1:
            return logits
        return divide(logits, [self.temperature] * len(logits))
