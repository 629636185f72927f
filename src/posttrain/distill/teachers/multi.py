"""Several teachers: a mixture of their distributions, p = sum_k w_k p_k.

The weights are equal (You et al., 2017, "Learning from Multiple Teacher Networks"), given, or, row by row, the larger
the surer a teacher is of what is right (Zhang, Chen and Wang, 2022, "Confidence-Aware Multi-Teacher Knowledge
Distillation", equation 3): with the cross-entropy l_k of the right answer, at temperature 1,

    w_k = (1 - exp(l_k) / sum_j exp(l_j)) / (K - 1)

Left out: weights that are learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch.nn import functional

from posttrain.core.errors import BadRequest
from posttrain.distill.teachers import Teacher


class Multi(Teacher):
    """A mixture of several trained networks."""

    combine: Literal["mean", "weighted", "confidence"] = "mean"
    """Equal weights, the given ones, or for each prediction by how sure a teacher is of the right answer."""

    weights: list[float] | None = None
    """For `weighted`: one number a teacher, at least 0; they are divided by their sum."""

    def refuse(self, count: int) -> None:
        """Refuse fewer than two, or weights that don't fit."""
        if count < 2:
            raise BadRequest("`multi` needs at least two teachers.", "List them: teacher: [first, second].")
        if (self.combine == "weighted") != (self.weights is not None):
            raise BadRequest("`weights` and `combine: weighted` belong together.", "Give both or neither.")
        if self.weights is None:
            return
        if len(self.weights) != count:
            raise BadRequest(f"There are {count} teachers but {len(self.weights)} weights.", "Give one a teacher.")
        if min(self.weights) < 0 or sum(self.weights) <= 0:
            raise BadRequest(f"Weights of teachers can't be {self.weights}.", "None below 0, and not all of them 0.")

    def shares(self, logits: Sequence[torch.Tensor], targets: torch.Tensor) -> torch.Tensor:
        """See `Teacher.shares`."""
        count, rows = len(logits), logits[0].shape[0]
        if self.combine == "confidence":
            wrong = torch.stack([functional.cross_entropy(each, targets, reduction="none") for each in logits])
            return (1 - wrong.softmax(0)) / (count - 1)
        given = logits[0].new_tensor(self.weights or [1.0] * count)
        return (given / given.sum()).unsqueeze(1).expand(count, rows)
