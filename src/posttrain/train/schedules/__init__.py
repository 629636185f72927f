"""Learning-rate schedules: the factor on the base learning rate at each step."""

from __future__ import annotations

from abc import abstractmethod

from pydantic import Field

from posttrain.core.settings import Settings


class Schedule(Settings):
    """Linear warm-up, then whatever the schedule does with the rest."""

    warmup: float = Field(0.0, ge=0)
    """Steps of linear warm-up: below 1 a share of all steps, from 1 on a number of steps."""

    def factor(self, step: int, total: int) -> float:
        """Factor on the base learning rate.

        Args:
            step: The step about to be taken, 0 … total - 1.
            total: All steps.
        """
        warm = round(self.warmup * total) if self.warmup < 1 else int(self.warmup)
        if step < warm:
            return (step + 1) / (warm + 1)
        return self.after_warmup((step - warm) / max(1, total - warm))

    @abstractmethod
    def after_warmup(self, progress: float) -> float:
        """Factor at a share `progress` in [0, 1) of the steps after warm-up."""
