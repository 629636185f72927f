"""One teacher: the distribution to learn is its own (Hinton, Vinyals and Dean, 2015)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from posttrain.core.errors import BadRequest
from posttrain.distill.teachers import Teacher


class Single(Teacher):
    """One trained network."""

    def refuse(self, count: int) -> None:
        """Refuse more than one."""
        if count != 1:
            raise BadRequest(f"`single` is one teacher, but there are {count}.", "Choose teachers: {multi: {}}.")

    def shares(self, logits: Sequence[torch.Tensor], targets: torch.Tensor) -> torch.Tensor:
        """See `Teacher.shares`."""
        return logits[0].new_ones(1, logits[0].shape[0])
