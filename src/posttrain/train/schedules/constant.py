"""Constant learning rate after warm-up."""

from __future__ import annotations

from posttrain.train.schedules import Schedule


class Constant(Schedule):
    """The base learning rate throughout."""

    def after_warmup(self, progress: float) -> float:
        """Always 1."""
        return 1.0
