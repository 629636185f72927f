"""Head-only fine-tuning (linear probing): the body stays as it is, only the task's head is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from posttrain.adapt import InPlaceAdapter

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


class HeadOnly(InPlaceAdapter):
    """Train what stands above the body: a classifier, or a language model's vocabulary projection."""

    default_learning_rate: ClassVar[float] = 1e-3

    def selects(self, network: PreTrainedModel, name: str, parameter: nn.Parameter) -> bool:
        """A task's head is trained anyway; of a language model the projection, be it tied to the embedding."""
        head = network.get_output_embeddings()
        return head is not None and any(parameter is own for own in head.parameters())
