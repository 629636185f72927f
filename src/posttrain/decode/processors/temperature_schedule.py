"""Temperature schedule: the temperature moves from one value to another while a sequence grows.

As in simulated annealing (Kirkpatrick, Gelatt and Vecchi, 1983) a text may begin with exploration and end with
refinement; the other direction works too. With progress p, 0 at the first new token and 1 at the last, from start s to
end e: linear s + (e - s) p; cosine e + (s - e) (1 + cos πp) / 2, as in Loshchilov and Hutter (2017), slow at both ends;
exponential s (e / s)^p, the geometric cooling of simulated annealing, which falls fastest at first.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from posttrain.core.errors import BadRequest
from posttrain.decode.processors import DecodeState, LogitsProcessor
from posttrain.decode.processors._by_row import divide

if TYPE_CHECKING:
    import torch


class TemperatureSchedule(LogitsProcessor):
    """Move the temperature over the new tokens of a sequence."""

    neutral: ClassVar[dict[str, Any] | None] = {"start": 1.0, "end": 1.0}

    start: float = Field(1.2, gt=0, allow_inf_nan=False)
    """Temperature of the first new token."""

    end: float = Field(0.4, gt=0, allow_inf_nan=False)
    """Temperature of the last one, and of all that follow it."""

    shape: Literal["linear", "cosine", "exponential"] = "linear"
    """The way from start to end: linear, cosine (slow at both ends) or exponential (fastest at first)."""

    tokens: int | None = Field(None, ge=1)
    """New tokens over which the temperature moves; max_new_tokens when not given."""

    def temperature(self, progress: float) -> float:
        """The temperature at a point of the way.

        Args:
            progress: In [0, 1], 0 at the first token and 1 at the last.
        """
        if self.shape == "linear":
            return self.start + (self.end - self.start) * progress
        if self.shape == "cosine":
            return self.end + (self.start - self.end) * (1 + math.cos(math.pi * progress)) / 2
        return self.start * (self.end / self.start) ** progress

    def __call__(self, logits: torch.Tensor, state: DecodeState) -> torch.Tensor:
        total = self.tokens or state.max_new_tokens
        if total is None:
            raise BadRequest("A temperature schedule needs to know how long the text may get.", "Set `tokens`.")
        steps = max(1, total - 1)  # from the first of `total` tokens to the last
        return divide(logits, [self.temperature(min(1.0, len(row) / steps)) for row in state.generated])
