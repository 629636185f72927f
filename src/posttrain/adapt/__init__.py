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

import torch
from torch import nn

from posttrain.core import catalog, files
from posttrain.core.errors import BadRequest, Failure
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

    in_place: ClassVar[bool] = False
    """Whether it trains the network's own parameters, so that what comes out is a whole model."""

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


class InPlaceAdapter(Adapter):
    """Base of methods that add nothing and train some of the network's own parameters.

    The values they had are kept, so that the base can still be computed with; `merge` lets go of them.
    """

    in_place: ClassVar[bool] = True

    @abstractmethod
    def selects(self, network: PreTrainedModel, name: str, parameter: nn.Parameter) -> bool:
        """Whether the parameter is trained."""

    def keeps_base(self) -> bool:
        """Whether `disabled` will be needed, which costs a copy of what is trained."""
        return True

    def apply(self, network: PreTrainedModel, name: str = "default") -> None:
        """Free the selected parameters and freeze the rest.

        Raises:
            BadRequest: If nothing is selected.
        """
        chosen = {key: p for key, p in network.named_parameters() if self.selects(network, key, p)}
        if not chosen:
            raise BadRequest(
                f"{type(network).__name__} has no parameter that {type(self).__name__} trains.",
                "Choose another adapter.",
            )
        for key, parameter in network.named_parameters():
            parameter.requires_grad = key in chosen
        if self.keeps_base():
            vars(network)[_BASE] = {key: p.detach().clone() for key, p in chosen.items()}

    @contextmanager
    def disabled(self, network: PreTrainedModel) -> Iterator[None]:
        """Compute with the values from before training inside the block.

        Raises:
            BadRequest: If they weren't kept.
        """
        kept: dict[str, torch.Tensor] | None = vars(network).get(_BASE)
        if kept is None:
            raise BadRequest(
                "The base's own weights weren't kept, so it can't be computed with.", "Set keep_base: true."
            )
        parameters = {key: network.get_parameter(key) for key in kept}
        trained = {key: p.data for key, p in parameters.items()}
        for key, parameter in parameters.items():
            parameter.data = kept[key]
        try:
            yield
        finally:
            for key, parameter in parameters.items():
                parameter.data = trained[key]

    def merge(self, network: PreTrainedModel, name: str = "default") -> None:
        """What was trained are the network's own weights already; the old ones are let go."""
        vars(network).pop(_BASE, None)
        network.requires_grad_(True)

    def save(self, model: LanguageModel, folder: Path, name: str = "default") -> None:
        """Write the trained parameters and ``adapter_config.json``; PEFT has no layout for them."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        trained = {
            key: p.detach().cpu().contiguous()
            for key, p in model.network.named_parameters()
            if self.selects(model.network, key, p)
        }
        save_file(trained, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        config = {
            "peft_type": catalog.term_of(self).upper(),
            "base_model_name_or_path": model.card.get("base", model.reference),
            "settings": self.model_dump(mode="json"),
        }
        files.write_json(folder / "adapter_config.json", config)

    @classmethod
    def load(cls, network: PreTrainedModel, folder: Path, name: str = "default") -> Self:
        """Free the same parameters and give them the stored values.

        Raises:
            Failure: If the stored parameters don't fit the network.
        """
        from safetensors.torch import load_file

        adapter = cls.parse(files.read_json(folder / "adapter_config.json")["settings"])
        adapter.apply(network, name)
        own = dict(network.named_parameters())
        for key, tensor in load_file(folder / "adapter_model.safetensors").items():
            if key not in own or own[key].shape != tensor.shape:
                raise Failure(f"The adapter {folder} doesn't fit: {type(network).__name__} has no such '{key}'.")
            own[key].data.copy_(tensor)
        return adapter


# Attribute of a network that keeps the values trained parameters had; not a module's, so never saved or moved.
_BASE = "_posttrain_base"


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
