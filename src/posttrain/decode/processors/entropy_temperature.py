"""Entropy temperature: each token's temperature follows from the entropy of its distribution.

EDT (Zhang, Bao and Huang, 2024, "EDT: Improving Large Language Models' Generation by Entropy-based Dynamic Temperature
Sampling"): T = T0 · N^(θ / H), with the base N = 0.8 and H the entropy of the distribution; here in nats, and of
the scores as they reach this processor. Where the model is sure, H is small and T falls towards 0; where it hesitates,
T rises towards T0, which it never reaches. Left out: temperatures above T0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field, model_validator

from posttrain.decode.processors import DecodeState, LogitsProcessor
from posttrain.decode.processors._by_row import divide
from posttrain.ops.logprobs import entropy

if TYPE_CHECKING:
    import torch


class EntropyTemperature(LogitsProcessor):
    """Sharpen where the model is sure, and leave it free where it hesitates."""

    neutral: ClassVar[dict[str, Any] | None] = {"ceiling": 1.0, "theta": 0.0}

    ceiling: float = Field(1.0, gt=0, allow_inf_nan=False)
    """T0: the temperature that tokens of high entropy come near to."""

    theta: float = Field(0.1, ge=0, allow_inf_nan=False)
    """θ: how much entropy counts; 0 gives every token the temperature T0."""

    base: float = Field(0.8, gt=0, lt=1)
    """N: the base of the power, 0.8 in the paper."""

    floor: float = Field(0.0, ge=0, allow_inf_nan=False)
    """The lowest temperature; 0 lets tokens the model is sure of be chosen greedily."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.floor > self.ceiling:
            raise ValueError(f"floor {self.floor:g} is above ceiling {self.ceiling:g}")
        return self

    def temperatures(self, logits: torch.Tensor) -> torch.Tensor:
        """The temperature of each row, [B], for scores [B, V]."""
        if self.theta == 0:
            return logits.new_full(logits.shape[:-1], self.ceiling)
        hesitation = entropy(logits).clamp(min=1e-12)  # θ / H may overflow to inf, and N^inf is 0
        return (self.ceiling * self.base ** (self.theta / hesitation)).clamp(min=self.floor)

    def __call__(self, logits: torch.Tensor, state: DecodeState) -> torch.Tensor:
        return divide(logits, self.temperatures(logits))
