"""The task's head beside an adapter: it is trained whole, saved with the adapter and put back by merging.

A head that was made for a task is no use frozen as it was drawn. Each named adapter gets a copy of its own, so that
disabling the adapter gives the base's head, and several tasks can share one body. In Hugging Face PEFT's layout these
are the `modules_to_save`.
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from posttrain.adapt import AdapterLayer, adapter_layers
from posttrain.core.errors import BadRequest, Failure
from posttrain.models.heads import has_head, task_head
from posttrain.models.surgery import replace

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from posttrain.models.language_model import LanguageModel

# What a network is for -> PEFT's word for it.
_PEFT_TASKS = {
    "sequence_classification": "SEQ_CLS",
    "token_classification": "TOKEN_CLS",
    "question_answering": "QUESTION_ANS",
}


class HeadLayer(AdapterLayer):
    """A module of the task's head with a trained copy of it for each named adapter."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__(base)
        self.copies = nn.ModuleDict()

    def holds(self, name: str) -> bool:
        """Whether there is a copy of this name."""
        return name in self.copies

    def add(self, name: str) -> None:
        """Add an adapter's copy, trainable."""
        self.copies[name] = deepcopy(self.base).requires_grad_(True)

    def adapted(self, x: torch.Tensor, output: torch.Tensor, name: str) -> torch.Tensor:
        """What the copy computes."""
        found: torch.Tensor = self.copies[name](x)
        return found

    def extra_repr(self) -> str:
        """Which adapter is in use: part of what the layer computes."""
        return f"active={self.active}"


def freeze_body(network: PreTrainedModel, name: str) -> None:
    """Freeze all of a network but a copy of its task's head for the adapter `name`; a language model has none."""
    head = task_head(network)
    network.requires_grad_(False)
    for key, module in head.items():
        layer = module if isinstance(module, HeadLayer) else HeadLayer(module)
        if layer is not module:
            replace(network, key, layer)
        layer.add(name)


def head_layers(network: nn.Module) -> dict[str, HeadLayer]:
    """The modules of the head that have copies, by dotted name."""
    return {key: layer for key, layer in adapter_layers(network).items() if isinstance(layer, HeadLayer)}


def merge_head(network: nn.Module, name: str) -> None:
    """Put an adapter's copies in the places of the base's modules, and remove all others."""
    for key, layer in head_layers(network).items():
        replace(network, key, layer.copies[name] if layer.holds(name) else layer.base)


def keep_head(network: nn.Module, name: str) -> None:
    """Use an adapter's copies although the adapter itself is switched off, because the weights contain it."""
    for layer in head_layers(network).values():
        layer.active = name


def head_tensors(network: nn.Module, name: str, prefix: str = "") -> dict[str, torch.Tensor]:
    """An adapter's copies as tensors on the CPU: the prefix, the module's name and the tensor's name in it."""
    return {
        f"{prefix}{key}.{inner}": tensor.detach().cpu().contiguous()
        for key, layer in head_layers(network).items()
        if layer.holds(name)
        for inner, tensor in layer.copies[name].state_dict().items()
    }


def peft_entries(model: LanguageModel) -> dict[str, Any]:
    """What a PEFT configuration says about task and head."""
    tasks = (task for key, task in _PEFT_TASKS.items() if has_head(model.network, key))
    return {
        "task_type": "CAUSAL_LM" if model.is_causal else next(tasks, None),
        "modules_to_save": list(head_layers(model.network)) or None,
    }


def restore_head(
    network: nn.Module,
    name: str,
    tensors: dict[str, torch.Tensor],
    folder: Path,
    prefix: str = "",
    modules_to_save: list[str] | None = None,
) -> None:
    """Give an adapter's copies the stored values; a module of the head that wasn't stored keeps the base's.

    Args:
        network: One that carries the adapter.
        name: The adapter.
        tensors: Stored tensors, those of the adapter itself among them.
        folder: Where they come from, for messages.
        prefix: See `head_tensors`.
        modules_to_save: PEFT's list: what else was trained whole.

    Raises:
        BadRequest: If something was trained whole that isn't of the head.
        Failure: If a stored module doesn't fit.
    """
    layers = head_layers(network)
    for wanted in modules_to_save or []:
        stored = {key for key in tensors if f".{wanted}." in f".{key.removeprefix(prefix)}" and ".lora_" not in key}
        own = {f"{prefix}{key}." for key in layers}
        if other := sorted(key for key in stored if not key.startswith(tuple(own))):
            raise BadRequest(
                f"The adapter {folder} trains '{other[0].removeprefix(prefix)}' whole, which isn't of a task's head "
                "that the base has."
            )
    for key, layer in layers.items():
        start = f"{prefix}{key}."
        stored_here = {k.removeprefix(start): t for k, t in tensors.items() if k.startswith(start)}
        if not stored_here or not layer.holds(name):
            continue
        own_state = layer.copies[name].state_dict()
        if {k: t.shape for k, t in own_state.items()} != {k: t.shape for k, t in stored_here.items()}:
            raise Failure(f"The adapter {folder} doesn't fit: its '{key}' isn't the one of {type(network).__name__}.")
        layer.copies[name].load_state_dict(stored_here)
