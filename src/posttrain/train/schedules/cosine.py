"""Cosine decay after warm-up (Loshchilov and Hutter, 2017, equation 5, without restarts)."""

from __future__ import annotations

import math

from pydantic import Field

from posttrain.train.schedules import Schedule


class Cosine(Schedule):
    """Half a cosine from 1 to `floor`."""

    floor: float = Field(0.0, ge=0, le=1)
    """The factor at the end."""

    def after_warmup(self, progress: float) -> float:
        """floor + (1 - floor) * (1 + cos(pi * progress)) / 2."""
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * progress)) / 2
