"""The contract of a training objective: a loss over a batch, as sums.

An objective knows nothing of optimizers, steps or devices. It returns sums and says by what they are to be divided, so
that accumulating k micro-batches equals one big batch whatever their sizes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from posttrain.core.settings import Settings
from posttrain.data.chat_template import TooLong, TrainOn
from posttrain.data.dataset import Dataset
from posttrain.data.encoded import Encoded
from posttrain.data.packing import pack

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from posttrain.models.forward import VocabularyHead
    from posttrain.models.language_model import LanguageModel


class Encoding(Settings):
    """How records become tokens."""

    max_length: int | None = Field(None, ge=2)
    """Most tokens a record may have; the model's context when not given."""

    too_long: TooLong = "error"
    """What happens to a longer record: error, skip, truncate, or split (plain text only)."""

    train_on: TrainOn = "completion"
    """Learn the completion (the assistant's messages), or all tokens."""

    chat: bool | None = None
    """Render through the chat template; by default messages are, and prompt + completion are not."""


class Objective(Settings):
    """A loss."""

    unit: ClassVar[str] = "loss"
    """What the mean loss is measured in, for people."""

    rising: ClassVar[frozenset[str]] = frozenset()
    """The metrics of which more is better."""

    def prepare(self, model: LanguageModel, dataset: Dataset) -> None:
        """Give the network what this loss needs before it gets its adapter: a head with as many outputs as labels.

        A network that fits already stays as it is, so that training can go on where it ended.

        Raises:
            BadRequest: If the network can't have it, or has one for other labels.
        """

    @abstractmethod
    def encode(self, dataset: Dataset, model: LanguageModel, encoding: Encoding) -> list[Encoded]:
        """Turn records into sequences with what this loss needs; the model has been prepared.

        Raises:
            BadRequest: If the records aren't of a kind this loss can learn from.
        """

    def collate(self, items: Sequence[Encoded]) -> Any:
        """Make a micro-batch of sequences; packed end to end unless a loss needs another form."""
        return pack(items)

    @abstractmethod
    def weight(self, batch: Any) -> float:
        """Number of units (loss-carrying tokens, rows, pairs) by which this batch's sums are divided."""

    @abstractmethod
    def loss(self, network: PreTrainedModel, batch: Any) -> tuple[torch.Tensor, dict[str, float]]:
        """Loss and metrics of one micro-batch.

        Returns:
            The loss summed over the units of the batch (scalar, differentiable), and further metrics, summed likewise.
        """

    def summarize(self, sums: dict[str, float], weight: float) -> dict[str, float]:
        """Metrics of many batches from their sums: means, unless a metric isn't one (an F1 of counts).

        Args:
            sums: ``loss`` and the further metrics of `loss`, each summed over batches.
            weight: The summed weight, above 0.
        """
        return {key: value / weight for key, value in sums.items()}

    def baseline(self, items: Sequence[Encoded]) -> dict[str, float]:
        """What a predictor without any input would reach on these items, under the metrics' names.

        The first is the metric that the task is judged by; empty where the loss itself is.
        """
        return {}

    def baseline_name(self, metric: str) -> str:
        """What that predictor always says, in a word."""
        return "majority"


@dataclass(frozen=True)
class Prediction:
    """What one pass says about the N units of a batch (learned tokens, rows), before any loss is taken.

    Attributes:
        targets: What is right, [N] class or token ids, or what else the loss compares with.
        hidden: [N, H], the states the predictions are made from.
        head: The map from them to logits where there are too many to hold at once; None where `logits` is given.
        logits: [N, C]; None where only chunks of them are ever made, with `head`.
        layers: After the embedding and after each block, [T, H] each (the last one after the final norm), T all tokens
            of the batch; None unless asked for.
    """

    targets: torch.Tensor
    hidden: torch.Tensor
    head: VocabularyHead | None = None
    logits: torch.Tensor | None = None
    layers: list[torch.Tensor] | None = None


class Supervised(Objective):
    """A loss on predictions that others can look at too: regularisers, distillation.

    The pass and the loss are apart, so that whatever else is compared (a teacher, the base) shares the pass.
    """

    @abstractmethod
    def predict(self, network: PreTrainedModel, batch: Any, *, layers: bool = False) -> Prediction:
        """One pass; differentiable.

        Args:
            network: The network.
            batch: One micro-batch.
            layers: Also give the states of all layers.
        """

    @abstractmethod
    def loss_of(self, prediction: Prediction, batch: Any) -> tuple[torch.Tensor, dict[str, float]]:
        """Loss and metrics of a prediction, as `loss` gives them."""

    def loss(self, network: PreTrainedModel, batch: Any) -> tuple[torch.Tensor, dict[str, float]]:
        """See `Objective.loss`."""
        return self.loss_of(self.predict(network, batch), batch)
