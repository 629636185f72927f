"""The contract of a regularizer: what a training minimises beside its task, so that a model keeps what it could do.

A regularizer is settings. When a training begins it gives a `Term`, which holds what it has to remember and says one of
three things: a penalty on the parameters, once a step; a loss on the predictions that the task has made; or further
data to learn from in each step. `posttrain.train.regularized` puts terms and task together.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from posttrain.core.settings import Settings
from posttrain.data.dataset import Dataset
from posttrain.train.objectives import Objective, Prediction

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from posttrain.models.language_model import LanguageModel


@dataclass(frozen=True)
class Beginning:
    """A training that is about to begin: the network carries its adapter, and nothing has been changed yet.

    Attributes:
        model: What is trained.
        objective: The task.
        base: Gives a context in which the network computes as it did before it was trained (`Adapter.disabled`).
        fresh: Names of parameters that the base doesn't have, those of a new head.
        batch_size: The task's records in a step.
        tokens_per_pass: The most tokens that go through the network at once.
        seed: Of the order of further data.
    """

    model: LanguageModel
    objective: Objective
    base: Callable[[], AbstractContextManager[None]]
    fresh: frozenset[str] = frozenset()
    batch_size: int = 8
    tokens_per_pass: int = 512
    seed: int = 0


@dataclass(frozen=True)
class Extra:
    """Further data that each step learns from.

    Attributes:
        objective: Their loss.
        batches: One step's micro-batches at a time, without end; with `state_dict` and `load_state_dict`.
    """

    objective: Objective
    batches: Iterable[list[Any]]


class Term:
    """A regularizer at work in one training. What isn't overridden says nothing.

    Attributes:
        weight: How much a unit of its predictions or its extra data counts, against a unit of the task.
        extra: The data that it adds, if any.
        judges: Whether it has something to say about predictions; it then shares the task's pass.
    """

    weight: float = 1.0
    extra: Extra | None = None
    judges: bool = False

    def loss(self, network: PreTrainedModel, prediction: Prediction, batch: Any) -> torch.Tensor:
        """Summed over the units of a micro-batch, without the weight; only called where it `judges`.

        Args:
            network: The network, in training.
            prediction: What the task's pass has predicted, differentiable.
            batch: The micro-batch.
        """
        raise NotImplementedError(f"{type(self).__name__} has nothing to say about predictions")

    def penalty(self, network: PreTrainedModel) -> torch.Tensor | None:
        """What is added to the mean loss of an optimizer step, once, its weight included; a differentiable scalar."""
        return None

    def before_update(self, network: PreTrainedModel, step: int, steps: int) -> None:
        """See `posttrain.train.part.Part`."""

    def after_update(self, network: PreTrainedModel, step: int, steps: int) -> None:
        """See `posttrain.train.part.Part`."""

    def state(self, network: PreTrainedModel) -> dict[str, torch.Tensor]:
        """See `posttrain.train.part.Part`."""
        return {}


class Regularizer(Settings):
    """Something to be minimised beside a task."""

    @abstractmethod
    def begin(self, beginning: Beginning) -> Term:
        """The term of a training; what the base looked like is noted now, if it will be needed.

        Raises:
            BadRequest: If this model, task or adapter can't be regularized in this way.
        """

    def further_data(self) -> Dataset | None:
        """The data set it learns from beside the task's, if any: part of what decides the outcome.

        Raises:
            BadRequest: If it can't be read.
        """
        return None
