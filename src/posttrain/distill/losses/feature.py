"""Feature distillation: the student's hidden states are drawn to the teacher's (Romero et al., 2015, "FitNets").

    L = weight * mean over mapped layers and tokens of D(W h_student, h_teacher)

D is the mean squared error over the features, or one less the cosine. The linear map W is trained beside the student,
by default only where the widths differ, and thrown away afterwards (Jiao et al., 2020, "TinyBERT", equation 8).

Layer 0 is the embedding, layer i the state after block i, the last one after the final norm. The mapping of a student's
L_s blocks to a teacher's L_t is

    uniform     i -> round(i L_t / L_s) for i = 0 ... L_s (TinyBERT)
    last        i -> L_t - L_s + i for i = 1 ... L_s (Sun et al., 2019, "Patient Knowledge Distillation")
    a list      of [student, teacher] pairs; -1 is the last

Tokens count so that each sequence weighs what it weighs in the task's loss. Several teachers count equally.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from posttrain.core.errors import BadRequest
from posttrain.distill.losses import Comparison, DistillationLoss

if TYPE_CHECKING:
    from posttrain.models.language_model import LanguageModel


class Feature(DistillationLoss):
    """The teacher's hidden states at mapped layers."""

    needs_layers: ClassVar[bool] = True

    weight: float = Field(1.0, ge=0)
    """Factor on this loss."""

    distance: Literal["mse", "cosine"] = "mse"
    """How two states are compared."""

    map: Literal["uniform", "last"] | list[tuple[int, int]] = "uniform"
    """Which student layer learns from which teacher layer: uniform, last, or pairs [[student, teacher], …]."""

    project: Literal["where_needed", "always"] = "where_needed"
    """Where a trained linear map stands between student and teacher: where the widths differ, or everywhere."""

    projection_rate: float = Field(10.0, gt=0)
    """Factor on the learning rate of these maps, which begin at random while the student doesn't."""

    def pairs(self, student_blocks: int, teacher_blocks: int) -> list[tuple[int, int]]:
        """The mapped layers, (student, teacher), from 0 to the number of blocks.

        Raises:
            BadRequest: If one of the two has no such layer.
        """
        if self.map == "uniform":
            # Halves are rounded up, where round() would go to the even number.
            places = [
                (2 * i * teacher_blocks + student_blocks) // (2 * student_blocks) for i in range(student_blocks + 1)
            ]
            return list(enumerate(places))
        if self.map == "last":
            shared = min(student_blocks, teacher_blocks)
            return [(student_blocks - back, teacher_blocks - back) for back in range(shared - 1, -1, -1)]
        if not self.map:
            raise BadRequest("The layer map is empty.", "Give pairs [[student, teacher], …], or `uniform`.")
        return [(_layer(s, student_blocks, "student"), _layer(t, teacher_blocks, "teacher")) for s, t in self.map]

    def prepare(self, student: LanguageModel, teachers: Sequence[LanguageModel]) -> nn.Module | None:
        """The linear maps: one a teacher and pair of layers."""
        own = student.network.config.get_text_config()
        maps: dict[str, nn.Module] = {}
        for number, teacher in enumerate(teachers):
            theirs = teacher.network.config.get_text_config()
            pairs = self.pairs(own.num_hidden_layers, theirs.num_hidden_layers)
            if self.project == "always" or own.hidden_size != theirs.hidden_size:
                for place in range(len(pairs)):
                    maps[_name(number, place)] = nn.Linear(own.hidden_size, theirs.hidden_size, device=student.device)
        for module in maps.values():
            for parameter in module.parameters():
                parameter.learning_rate_factor = self.projection_rate  # type: ignore[attr-defined]
        return nn.ModuleDict(maps) if maps else None

    def loss(self, comparison: Comparison, added: nn.Module | None) -> torch.Tensor:
        """See `DistillationLoss.loss`."""
        maps = dict(cast("nn.ModuleDict", added).items()) if added is not None else {}
        student, lesson = comparison.student.layers, comparison.lesson
        assert student is not None
        total = comparison.token_units.new_zeros(())
        for number, prediction in enumerate(lesson.predictions):
            teacher = prediction.layers
            assert teacher is not None
            pairs = self.pairs(len(student) - 1, len(teacher) - 1)
            for place, (s, t) in enumerate(pairs):
                own, name = student[s].float(), _name(number, place)
                if name in maps:
                    own = maps[name](own)
                share = comparison.token_units / (len(pairs) * len(lesson.predictions))  # [T]
                total = total + torch.dot(self._distances(own, teacher[t].float()), share)
        return self.weight * total

    def _distances(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """[T, H], [T, H] -> [T]."""
        if self.distance == "cosine":
            return 1 - functional.cosine_similarity(student, teacher, dim=-1)
        return (student - teacher).square().mean(-1)


def _name(teacher: int, place: int) -> str:
    return f"teacher{teacher}_pair{place}"


def _layer(number: int, blocks: int, whose: str) -> int:
    found = number + blocks + 1 if number < 0 else number
    if not 0 <= found <= blocks:
        raise BadRequest(
            f"The {whose} has no layer {number}.", f"It has {blocks} blocks: 0 is its embedding, {blocks} the last."
        )
    return found
