"""Distillation as an objective: the task's own loss and what the teachers add to it, from one pass of the student.

    L = L_task * (product of the shares that the losses leave to it) + sum of the losses

What a loss trains beside the student (projections) hangs in the network as ordinary modules while it is trained, so the
loop trains and checkpoints them like everything else; `detach` takes them off again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from posttrain.core.catalog import term_of
from posttrain.core.errors import BadRequest
from posttrain.data.dataset import Dataset
from posttrain.data.encoded import Encoded
from posttrain.distill.losses import Comparison, DistillationLoss
from posttrain.distill.teachers import Lesson
from posttrain.distill.vocabulary import refuse_other_vocabulary
from posttrain.train.objectives import Encoding, Prediction, Supervised

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from posttrain.models.language_model import LanguageModel

_ADDED = "distillation"
_TASK = "task_loss"


@dataclass(frozen=True, kw_only=True)
class Attempt(Prediction):
    """What the student predicts, beside what its teachers say of the same batch.

    Attributes:
        own: The prediction as the task made it.
        lesson: The teachers' predictions.
        added: What is trained beside the student to compare them, by the losses' names.
    """

    own: Prediction
    lesson: Lesson
    added: Mapping[str, nn.Module]


class Distillation(Supervised):
    """A task learned with the help of teachers."""

    task: Any
    """The task, a `Supervised` objective."""

    losses: list[Any]
    """What is taught, `DistillationLoss` each."""

    teacher: Any
    """Who teaches, a `Teacher`."""

    models: list[Any]
    """The teachers' models."""

    def attach(self, student: LanguageModel) -> None:
        """Check that the student can learn from the teachers, and add to its network what is trained beside it.

        Raises:
            BadRequest: If it can't.
        """
        if not isinstance(self.task, Supervised):
            raise BadRequest(
                f"The objective '{term_of(self.task)}' can't be distilled: its pass and its loss aren't apart.",
                "Choose another objective.",
            )
        if not self.losses:
            raise BadRequest("There is nothing to be taught.", "Give `losses`, for example response.")
        self.teacher.refuse(len(self.models))
        for model in self.models:
            refuse_other_vocabulary(student, model)
        made = {name: loss.prepare(student, self.models) for name, loss in self._named()}
        student.network.add_module(_ADDED, nn.ModuleDict({name: each for name, each in made.items() if each}))

    def detach(self, network: PreTrainedModel) -> None:
        """Take off what `attach` added; the network is of its own class again and can be saved."""
        delattr(network, _ADDED)

    def encode(self, dataset: Dataset, model: LanguageModel, encoding: Encoding) -> list[Encoded]:
        """As the task does."""
        items: list[Encoded] = self.task.encode(dataset, model, encoding)
        return items

    def collate(self, items: Sequence[Encoded]) -> Any:
        """As the task does."""
        return self.task.collate(items)

    def weight(self, batch: Any) -> float:
        """The task's."""
        return float(self.task.weight(batch))

    def predict(self, network: PreTrainedModel, batch: Any, *, layers: bool = False) -> Attempt:
        """The task's pass of the student, after the teachers'."""
        layers = layers or any(loss.needs_layers for loss in self.losses)
        lesson = self.teacher.teach([model.network for model in self.models], self.task, batch, layers=layers)
        own = self.task.predict(network, batch, layers=layers)
        seen = {each.name: getattr(own, each.name) for each in fields(Prediction)}
        return Attempt(**seen, own=own, lesson=lesson, added=dict(getattr(network, _ADDED).items()))

    def loss_of(self, prediction: Prediction, batch: Any) -> tuple[torch.Tensor, dict[str, float]]:
        """See `Objective.loss`; the metrics are the task's, ``task_loss`` and each loss by its name."""
        assert isinstance(prediction, Attempt)
        share = math.prod(loss.task_share() for loss in self.losses)
        with torch.no_grad() if share == 0 else nullcontext():
            task, metrics = self.task.loss_of(prediction.own, batch)
        total = share * task
        metrics = {**metrics, _TASK: float(task.detach())}
        comparison = Comparison(prediction.own, prediction.lesson, batch, self.weight(batch))
        for name, loss in self._named():
            value = loss.loss(comparison, prediction.added.get(name))
            total = total + value
            metrics[name] = float(value.detach())
        return total, metrics

    def summarize(self, sums: dict[str, float], weight: float) -> dict[str, float]:
        """The task's own summary, and the means of what is added here."""
        mine = {_TASK, *(name for name, _ in self._named())}
        means = self.task.summarize({key: value for key, value in sums.items() if key not in mine}, weight)
        return {**means, **{key: value / weight for key, value in sums.items() if key in mine}}

    def _named(self) -> Iterator[tuple[str, DistillationLoss]]:
        """The losses under their terms, numbered from the second of a term on."""
        seen: dict[str, int] = {}
        for loss in self.losses:
            term = term_of(loss).rpartition(":")[2].lower()
            seen[term] = seen.get(term, 0) + 1
            yield (term if seen[term] == 1 else f"{term}_{seen[term]}"), loss
