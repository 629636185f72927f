"""Full fine-tuning: every parameter is trained, or all but the lowest layers, at once or one layer after the other.

Gradual unfreezing (Howard and Ruder, 2018, section 3.3, "Universal Language Model Fine-tuning") begins with what stands
above the blocks, the head and the final norm, and lets the layers join one by one from the top, the embeddings last.
Frozen layers get no update, no weight decay and no moments, and cost no backward pass. Where the head is tied to the
embedding it is an embedding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from posttrain.adapt import InPlaceAdapter
from posttrain.core.errors import BadRequest
from posttrain.models.surgery import layer_numbers

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


class Full(InPlaceAdapter):
    """Train the network's own weights."""

    default_learning_rate: ClassVar[float] = 2e-5

    freeze_layers: int = Field(0, ge=0)
    """How many of the lowest layers stay as they are; from 1 on the embeddings stay too."""

    unfreeze_every: int | None = Field(None, ge=1)
    """Begin with the head alone and let a layer join from the top after so many steps; null trains all from the start.
    """

    keep_base: bool = False
    """Keep a copy of the old weights, for losses that compare with the base. Doubles the memory of the weights."""

    def keeps_base(self) -> bool:
        """As the setting says."""
        return self.keep_base

    @contextmanager
    def disabled(self, network: PreTrainedModel) -> Iterator[None]:
        """Compute with the values from before training inside the block.

        Raises:
            BadRequest: If they aren't kept.
        """
        if not self.keep_base:
            raise BadRequest(
                "The adapter `full` changes the base's own weights and keeps no copy of them, so there is no base to "
                "compare with.",
                "Set keep_base: true, as in adapt: {full: {keep_base: true}}, for a second copy of the weights in "
                "memory; or take an adapter that leaves the base as it is, such as lora.",
            )
        with super().disabled(network):
            yield

    def apply(self, network: PreTrainedModel, name: str = "default") -> None:
        """Free the parameters, but for frozen layers and, below them, the embeddings.

        Raises:
            BadRequest: If more layers are to be frozen than there are, or none can be told apart.
        """
        if self.freeze_layers or self.unfreeze_every:
            top = layer_numbers(network)[1]
            if self.freeze_layers >= top:
                raise BadRequest(
                    f"freeze_layers: {self.freeze_layers}, but {type(network).__name__} has {top - 1} layers.",
                    "Freeze fewer, or take the adapter head_only.",
                )
        super().apply(network, name)

    def selects(self, network: PreTrainedModel, name: str, parameter: nn.Parameter) -> bool:
        """All, but for frozen layers and, below them, the embeddings."""
        return self.freeze_layers == 0 or layer_numbers(network)[0][name] > self.freeze_layers

    def before_update(self, network: PreTrainedModel, step: int, steps: int) -> None:
        """Take the gradients from layers that haven't joined yet."""
        if self.unfreeze_every:
            numbers, top = layer_numbers(network)
            lowest = top - (step - 1) // self.unfreeze_every
            for name, parameter in network.named_parameters():
                if numbers[name] < lowest:
                    parameter.grad = None
                    parameter.requires_grad = False  # from the next step on its gradient isn't even computed

    def after_update(self, network: PreTrainedModel, step: int, steps: int) -> None:
        """Let the next layer join when its time has come."""
        if self.unfreeze_every and step % self.unfreeze_every == 0:
            numbers, top = layer_numbers(network)
            joining = top - step // self.unfreeze_every
            if joining > self.freeze_layers or (joining == 0 and not self.freeze_layers):
                for name, parameter in network.named_parameters():
                    parameter.requires_grad |= numbers[name] == joining
