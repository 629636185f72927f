"""The contract of what is taught: a comparison of the student's pass with what the teachers said.

Several may stand together; their values are added to the task's loss, of which each may leave only a share. Values are
sums over the batch's units (learned tokens, rows), like every loss, so that splitting a batch changes nothing.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn

from posttrain.core.settings import Settings
from posttrain.distill.teachers import Lesson
from posttrain.train.objectives import Prediction

if TYPE_CHECKING:
    from posttrain.data.packing import Packed
    from posttrain.models.language_model import LanguageModel


@dataclass(frozen=True)
class Comparison:
    """A student's pass beside what its teachers said about the same batch of T tokens in S sequences.

    Attributes:
        student: The student's prediction, with gradients.
        lesson: What the teachers said.
        batch: The micro-batch.
        weight: Its weight: the number of units N.
    """

    student: Prediction
    lesson: Lesson
    batch: Packed
    weight: float

    @cached_property
    def sequence_units(self) -> torch.Tensor:
        """How many units each sequence has, [S] float32: its learned tokens, or 1 where it is classified as a whole."""
        learned = self.batch.targets >= 0
        if not bool(learned.any()):
            return torch.ones(self.batch.segments, device=learned.device)
        counts = torch.zeros(self.batch.segments, device=learned.device)
        return counts.index_add(0, self.batch.segment_ids, learned.float())

    @cached_property
    def token_units(self) -> torch.Tensor:
        """The units of each sequence shared out evenly among its tokens, [T] float32.

        A sum over tokens with these factors weighs sequences as the task does and doesn't depend on how a batch is
        split.
        """
        return (self.sequence_units / self.batch.lengths)[self.batch.segment_ids]


class DistillationLoss(Settings):
    """Something a student learns from its teachers."""

    needs_layers: ClassVar[bool] = False
    """Whether it compares the states of all layers."""

    between_examples: ClassVar[bool] = False
    """Whether it relates the sequences of a pass to one another, so that it matters which lie in the same pass."""

    def task_share(self) -> float:
        """The factor that this loss leaves to the task's own."""
        return 1.0

    def prepare(self, student: LanguageModel, teachers: Sequence[LanguageModel]) -> nn.Module | None:
        """Check that the networks can be compared, and make what is trained beside the student to compare them.

        Raises:
            BadRequest: If they can't.
        """
        return None

    @abstractmethod
    def loss(self, comparison: Comparison, added: nn.Module | None) -> torch.Tensor:
        """The loss of one micro-batch.

        Args:
            comparison: Student and teachers.
            added: What `prepare` made.

        Returns:
            Scalar, summed over the units, weighted; differentiable with respect to the student.
        """
