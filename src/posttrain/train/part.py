"""What takes part in a training beside its objective, seen from the loop: an adapter, a regularizer, a source."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class Enough(Exception):
    """Raised by a source of batches that ends the training before its last step; the text says why."""


class Part(Protocol):
    """Has a say in each step; the contract of `adapt` fulfils it."""

    def penalty(self, network: PreTrainedModel) -> torch.Tensor | None:
        """Added to the mean loss of an optimizer step, once, however the batch is split."""

    def before_update(self, network: PreTrainedModel, step: int, steps: int) -> None:
        """Called with the complete gradients of step `step` of 1 … `steps`, before they are clipped and used."""

    def after_update(self, network: PreTrainedModel, step: int, steps: int) -> None:
        """Called with the updated parameters."""

    def state(self, network: PreTrainedModel) -> dict[str, torch.Tensor]:
        """Tensors, not copies of them, that training changes beside the parameters."""
