"""Linear decay to a floor after warm-up (Devlin et al., 2019, section A.2)."""

from __future__ import annotations

from pydantic import Field

from posttrain.train.schedules import Schedule


class Linear(Schedule):
    """Fall in a straight line from 1 to `floor`."""

    floor: float = Field(0.0, ge=0, le=1)
    """The factor at the end."""

    def after_warmup(self, progress: float) -> float:
        """1 - (1 - floor) * progress."""
        return 1 - (1 - self.floor) * progress
