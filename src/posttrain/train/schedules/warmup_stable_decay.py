"""Warm-up, stable, decay: constant for most of the run, then a straight line down (Hu et al., 2024, MiniCPM)."""

from __future__ import annotations

from pydantic import Field

from posttrain.train.schedules import Schedule


class WarmupStableDecay(Schedule):
    """Stay at 1, then fall to `floor` over the last share of the steps."""

    decay: float = Field(0.2, gt=0, le=1)
    """Share of the steps after warm-up over which the rate falls."""

    floor: float = Field(0.0, ge=0, le=1)
    """The factor at the end."""

    def after_warmup(self, progress: float) -> float:
        """1 until 1 - decay, then linear to floor."""
        fallen = max(0.0, (progress - (1 - self.decay)) / self.decay)
        return 1 - (1 - self.floor) * fallen
