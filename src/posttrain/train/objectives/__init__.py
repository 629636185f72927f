"""The contract of a training objective: a loss over a batch, as sums.

An objective knows nothing of optimizers, steps or devices. It returns sums and says by what they are to be divided, so
that accumulating k micro-batches equals one big batch whatever their sizes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from posttrain.core.settings import Settings
from posttrain.data.chat_template import TooLong, TrainOn
from posttrain.data.dataset import Dataset
from posttrain.data.encoded import Encoded
from posttrain.data.packing import pack

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


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

    @abstractmethod
    def encode(self, dataset: Dataset, tokenizer: PreTrainedTokenizerBase, encoding: Encoding) -> list[Encoded]:
        """Turn records into sequences with what this loss needs.

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
