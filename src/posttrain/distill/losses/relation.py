"""Relational distillation: how examples lie to one another (Park et al., 2019, "Relational Knowledge Distillation").

Each sequence is one point, the mean of a layer's states over its tokens. Among the points of a pass are compared, with
the Huber loss l of the difference between student and teacher,

    distances   |x_i - x_j| / mu, mu the mean distance                            (equations 5 to 7)
    angles      cos of the angle at x_j between x_i and x_k                       (equations 8 and 9)

each as the mean over all pairs and triples of different points. Neither changes when a space is turned or scaled, so
the widths may differ and nothing has to be projected.

What can be compared depends on which examples lie in the same pass: make `tokens_per_pass` large enough for a batch.
A pass with too few of them teaches nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from posttrain.core.errors import BadRequest
from posttrain.distill.losses import Comparison, DistillationLoss

if TYPE_CHECKING:
    from posttrain.models.language_model import LanguageModel


class Relation(DistillationLoss):
    """Distances and angles between examples."""

    needs_layers: ClassVar[bool] = True

    between_examples: ClassVar[bool] = True

    weight: float = Field(1.0, ge=0)
    """Factor on this loss."""

    distance: float = Field(1.0, ge=0)
    """Weight of the distances."""

    angle: float = Field(2.0, ge=0)
    """Weight of the angles."""

    layer: int = -1
    """Which layer's states, of both; 0 is the embedding, -1 the last."""

    def prepare(self, student: LanguageModel, teachers: Sequence[LanguageModel]) -> nn.Module | None:
        """All must have the layer."""
        for model in (student, *teachers):
            blocks = model.network.config.get_text_config().num_hidden_layers
            if not -blocks - 1 <= self.layer <= blocks:
                raise BadRequest(
                    f"{model.reference or 'The student'} has no layer {self.layer}.",
                    f"It has {blocks} blocks: 0 is its embedding, {blocks} the last.",
                )
        return None

    def loss(self, comparison: Comparison, added: nn.Module | None) -> torch.Tensor:
        """See `DistillationLoss.loss`."""
        own = self._points(comparison, comparison.student.layers)
        total = own.new_zeros(())
        for prediction in comparison.lesson.predictions:
            theirs = self._points(comparison, prediction.layers)
            total = total + self.distance * _compared(_distances(own), _distances(theirs))
            total = total + self.angle * _compared(_angles(own), _angles(theirs))
        return self.weight * comparison.weight * total / len(comparison.lesson.predictions)

    def _points(self, comparison: Comparison, layers: list[torch.Tensor] | None) -> torch.Tensor:
        """One point a sequence, [S, H] float32."""
        assert layers is not None
        states, batch = layers[self.layer].float(), comparison.batch
        sums = states.new_zeros(batch.segments, states.shape[-1]).index_add(0, batch.segment_ids, states)
        return sums / batch.lengths.unsqueeze(1)


def _distances(points: torch.Tensor) -> torch.Tensor:
    """The distances of all pairs i < j over their mean: [S, H] -> [S (S - 1) / 2]."""
    first, second = torch.triu_indices(len(points), len(points), 1, device=points.device)
    # The root has no gradient at 0, where two examples are alike.
    found = (points[first] - points[second]).square().sum(-1).clamp(min=1e-12).sqrt()
    return found / found.mean().clamp(min=1e-6)


def _angles(points: torch.Tensor) -> torch.Tensor:
    """The cosines at j of all i < k that differ from j: [S, H] -> [S (S - 1) (S - 2) / 2]."""
    count = len(points)
    between = points.unsqueeze(0) - points.unsqueeze(1)  # [j, i, H], from j to i
    squared = between.square().sum(-1, keepdim=True)
    apart = squared > 1e-12  # two that are alike have no direction, and must have no gradient
    toward = between * torch.where(apart, torch.where(apart, squared, 1.0).rsqrt(), 0.0)
    cosines = toward @ toward.transpose(1, 2)  # [j, i, k]
    place = torch.arange(count, device=points.device)
    at, left, right = place[:, None, None], place[None, :, None], place[None, None, :]
    return cosines[(left < right) & (left != at) & (right != at)]


def _compared(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Mean Huber loss; 0 where there is nothing to compare."""
    if student.numel() == 0:
        return student.sum()
    return functional.smooth_l1_loss(student, teacher)
