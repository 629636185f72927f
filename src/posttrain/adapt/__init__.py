"""The contract of an adapter: which parameters of a network are trained, and what is added to it for that.

An adapter is settings; what it adds lives in the network as ordinary modules. `apply` may be called several times under
different names: one base, many adapters, one of them active.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

from torch import nn

from posttrain.core.settings import Settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from posttrain.models.language_model import LanguageModel


class AdapterLayer(nn.Module):
    """A module of the network with something added: `base` computes what the network computed before.

    Attributes:
        base: The module it stands for.
        active: Name of the adapter in use; None computes `base` alone.
    """

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.active: str | None = None
        self.train(base.training)  # a new module would be in training mode, with its dropout on


def adapter_layers(network: nn.Module) -> dict[str, AdapterLayer]:
    """All adapted modules by dotted name."""
    return {name: module for name, module in network.named_modules() if isinstance(module, AdapterLayer)}


def activate(network: nn.Module, name: str | None) -> None:
    """Use the adapter `name` everywhere it exists; None uses the base alone."""
    for layer in adapter_layers(network).values():
        layer.active = name


class Adapter(Settings):
    """A way to adapt a network."""

    default_learning_rate: ClassVar[float] = 2e-5
    """Base learning rate that suits the method when the user gives none."""

    @abstractmethod
    def apply(self, network: PreTrainedModel, name: str = "default") -> None:
        """Freeze what isn't trained, add what is; the outputs don't change where the method allows."""

    @contextmanager
    def disabled(self, network: PreTrainedModel) -> Iterator[None]:
        """Compute with the base alone inside the block."""
        before = {key: layer.active for key, layer in adapter_layers(network).items()}
        activate(network, None)
        try:
            yield
        finally:
            for key, layer in adapter_layers(network).items():
                layer.active = before[key]

    @abstractmethod
    def merge(self, network: PreTrainedModel, name: str = "default") -> None:
        """Fold what was learned into the base's own weights and remove what was added."""

    @abstractmethod
    def save(self, model: LanguageModel, folder: Path, name: str = "default") -> None:
        """Write the adapter alone to a folder, in Hugging Face PEFT's layout where one exists."""

    @classmethod
    @abstractmethod
    def load(cls, network: PreTrainedModel, folder: Path, name: str = "default") -> Self:
        """Read an adapter from a folder and attach it to the network."""

    def trainable(self, network: PreTrainedModel) -> dict[str, nn.Parameter]:
        """The parameters to train by name."""
        return {key: p for key, p in network.named_parameters() if p.requires_grad}


def trainable_share(network: PreTrainedModel) -> tuple[int, float]:
    """Number of trainable parameters, and their share of the base's parameters (tied ones counted once)."""
    trainable = sum(p.numel() for p in network.parameters() if p.requires_grad)
    added = sum(
        p.numel()
        for layer in adapter_layers(network).values()
        for key, p in layer.named_parameters()
        if not key.startswith("base.")
    )
    return trainable, trainable / (sum(p.numel() for p in network.parameters()) - added)
