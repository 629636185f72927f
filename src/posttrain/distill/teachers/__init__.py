"""The contract of who teaches: what one or several trained networks say about a batch.

Teachers are asked without gradients and without dropout, and nothing of them changes. What they say stays in the form
the pass gave it; probabilities over a vocabulary are made only for the rows somebody asks for.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from posttrain.core.settings import Settings
from posttrain.train.objectives import Prediction, Supervised

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Teacher(Settings):
    """Who teaches."""

    def refuse(self, count: int) -> None:
        """Refuse a number of teachers that the method can't work with.

        Raises:
            BadRequest: If so.
        """

    @abstractmethod
    def shares(self, logits: Sequence[torch.Tensor], targets: torch.Tensor) -> torch.Tensor:
        """How much each of K teachers counts in each of n rows.

        Args:
            logits: One [n, C] a teacher.
            targets: [n], what is right.

        Returns:
            [K, n], at least 0; each column sums to 1.
        """

    def teach(
        self, networks: Sequence[PreTrainedModel], task: Supervised, batch: Any, *, layers: bool = False
    ) -> Lesson:
        """What the networks say about a batch.

        Args:
            networks: The teachers.
            task: Says what is predicted.
            batch: One micro-batch.
            layers: Also give the states of all layers.
        """
        with torch.no_grad(), _evaluating(networks):
            return Lesson(self, [task.predict(network, batch, layers=layers) for network in networks])


@dataclass(frozen=True)
class Lesson:
    """What the teachers said about a batch of N units.

    Attributes:
        teacher: How they are combined.
        predictions: One a network.
    """

    teacher: Teacher
    predictions: Sequence[Prediction]

    @property
    def classes(self) -> int:
        """The number of classes or tokens all of them have."""
        return min(_width(prediction) for prediction in self.predictions)

    @torch.no_grad()
    def logprobs(self, rows: slice, temperature: float, classes: int) -> torch.Tensor:
        """Log-probabilities of the mixture of the teachers' distributions.

        Args:
            rows: Which of the N units.
            temperature: Divides all logits; positive.
            classes: Only the first so many ids count; the distributions are over these.

        Returns:
            [n, classes], float32 (float64 for float64 logits), each row normalised.
        """
        logits = [_logits(prediction, rows)[:, :classes] for prediction in self.predictions]
        logits = [each.to(torch.promote_types(each.dtype, torch.float32)) for each in logits]
        shares = self.teacher.shares(logits, self.predictions[0].targets[rows])  # [K, n]
        each = torch.stack([(part / temperature).log_softmax(-1) for part in logits])  # [K, n, classes]
        return each[0] if len(logits) == 1 else (each + shares.to(each.dtype).log().unsqueeze(-1)).logsumexp(0)


def _logits(prediction: Prediction, rows: slice) -> torch.Tensor:
    if prediction.logits is not None:
        return prediction.logits[rows]
    assert prediction.head is not None
    return prediction.head.logits(prediction.hidden[rows])


def _width(prediction: Prediction) -> int:
    if prediction.logits is not None:
        return prediction.logits.shape[-1]
    assert prediction.head is not None
    return prediction.head.weight.shape[0]


@contextmanager
def _evaluating(networks: Sequence[PreTrainedModel]) -> Iterator[None]:
    """Dropout off inside the block."""
    training = [network for network in networks if network.training]
    for network in training:
        network.eval()
    try:
        yield
    finally:
        for network in training:
            network.train()
