"""Bottleneck adapters: small two-layer networks behind the blocks (Houlsby et al., 2019; Pfeiffer et al., 2020).

y = f(x) + U a(D f(x) + d) + u, with f the last linear map of a block, D [m, H] a projection down to a few features, a
non-linearity, and U [H, m] a projection back that starts at zero: the network computes exactly what it did before the
first step. An adapter of hidden size H has 2 m H + H + m parameters (Houlsby et al., section 2.1). It stands before
the block's dropout and residual sum. Being non-linear it can't be merged. Left out: training the norms along with
them, fusion of several adapters, parallel adapters. PEFT has no layout for them, so they are saved in one of our own.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import nn

from posttrain.adapt import Adapter, AdapterLayer, activate, adaptable, adapter_layers, write_own_layout
from posttrain.adapt._head import freeze_body, head_layers, head_tensors, restore_head
from posttrain.core import files
from posttrain.core.errors import BadRequest, Failure
from posttrain.models.surgery import features, replace, trained_dtype, weight_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from posttrain.models.language_model import LanguageModel

_ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": nn.functional.relu,
    "gelu": nn.functional.gelu,
    "silu": nn.functional.silu,
}


class BottleneckLayer(AdapterLayer):
    """The last linear map of a block with bottlenecks behind it, one a named adapter."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__(base)
        self.down = nn.ModuleDict()  # [m, H] each
        self.up = nn.ModuleDict()  # [H, m] each
        self.activation: dict[str, str] = {}

    def holds(self, name: str) -> bool:
        """Whether there is a bottleneck of this name."""
        return name in self.down

    def add(self, name: str, width: int, activation: str) -> None:
        """Add an adapter: down as torch initialises linear maps, up zero."""
        _, hidden = features(self.base)
        weight = weight_of(self.base)
        dtype = trained_dtype(self.base)
        down = nn.Linear(hidden, width, device=weight.device, dtype=dtype)
        up = nn.Linear(width, hidden, device=weight.device, dtype=dtype)
        nn.init.zeros_(down.bias)
        nn.init.zeros_(up.weight)
        nn.init.zeros_(up.bias)
        self.down[name], self.up[name], self.activation[name] = down, up, activation

    def adapted(self, x: torch.Tensor, output: torch.Tensor, name: str) -> torch.Tensor:
        """y + U a(D y + d) + u of the base's output y."""
        down, up = self.down[name], self.up[name]
        low = _ACTIVATIONS[self.activation[name]](down(output.to(weight_of(down).dtype)))
        return output + up(low).to(output.dtype)

    def extra_repr(self) -> str:
        """Which adapter is in use and its non-linearity: part of what the layer computes."""
        return f"active={self.active}, activation={self.activation}"


class Bottleneck(Adapter):
    """Train a small network behind each block; everything else stays as it is."""

    default_learning_rate: ClassVar[float] = 3e-4

    mergeable: ClassVar[bool] = False

    placement: Literal["houlsby", "pfeiffer"] = "houlsby"
    """Where they stand: houlsby after attention and after the feed-forward, pfeiffer after the feed-forward only."""

    width: int = Field(64, ge=1)
    """Features m between the two projections."""

    activation: Literal["relu", "gelu", "silu"] = "gelu"
    """The non-linearity between them."""

    def apply(self, network: PreTrainedModel, name: str = "default") -> None:
        """Freeze the network and put a bottleneck behind the last linear map of each block.

        Raises:
            BadRequest: If the architecture has no such blocks, or they are narrower than the bottleneck.
        """
        chosen = self._places(network)
        for key, module in chosen.items():
            _, hidden = features(module.base if isinstance(module, BottleneckLayer) else module)
            if self.width > hidden:
                raise BadRequest(
                    f"A width of {self.width} is no bottleneck for {key} ({hidden}).", "Choose a lower one."
                )
        freeze_body(network, name)
        for key, module in chosen.items():
            layer = module if isinstance(module, BottleneckLayer) else BottleneckLayer(module)
            if layer is not module:
                replace(network, key, layer)
            layer.add(name, self.width, self.activation)
        activate(network, name)

    def merge(self, network: PreTrainedModel, name: str = "default") -> None:
        """Refused.

        Raises:
            BadRequest: Always: no linear map computes what a bottleneck does.
        """
        raise BadRequest(
            "Bottleneck adapters can't be merged: their non-linearity is no part of any weight.",
            "Use the model with its adapter, or train one that can be merged.",
        )

    def save(self, model: LanguageModel, folder: Path, name: str = "default") -> None:
        """Write ``adapter_model.safetensors`` (``MODULE.down.weight`` …) and ``adapter_config.json``."""
        tensors = {
            f"{key}.{side}": tensor.detach().cpu().contiguous()
            for key, layer in _layers(model.network, name).items()
            for side, tensor in _tensors(layer, name).items()
        }
        write_own_layout(self, tensors | head_tensors(model.network, name), model, folder)

    @classmethod
    def load(cls, network: PreTrainedModel, folder: Path, name: str = "default") -> Self:
        """Attach an adapter written by `save`.

        Raises:
            Failure: If the tensors don't fit the network.
        """
        from safetensors.torch import load_file

        adapter = cls.parse(files.read_json(folder / "adapter_config.json")["settings"])
        adapter.apply(network, name)
        stored = load_file(folder / "adapter_model.safetensors")
        own = {
            f"{key}.{side}": tensor
            for key, layer in _layers(network, name).items()
            for side, tensor in _tensors(layer, name).items()
        }
        restore_head(network, name, stored, folder)
        head = tuple(f"{key}." for key in head_layers(network))
        stored = {key: tensor for key, tensor in stored.items() if not key.startswith(head)}
        for key in sorted(stored.keys() | own.keys()):
            if key not in own or key not in stored or own[key].shape != stored[key].shape:
                raise Failure(f"The adapter {folder} doesn't fit {type(network).__name__}: they differ in '{key}'.")
        with torch.no_grad():
            for key, tensor in own.items():
                tensor.copy_(stored[key])
        return adapter

    def _places(self, network: PreTrainedModel) -> dict[str, nn.Module]:
        """The last linear map of each attention and feed-forward block.

        Within a block, modules are declared in the order in which they compute, so the projection back to the hidden
        size is the last one that has as many outputs as the first one has inputs.
        """
        places: dict[str, nn.Module] = {}
        for group in ("attention", "mlp") if self.placement == "houlsby" else ("mlp",):
            blocks: dict[str, dict[str, nn.Module]] = {}
            for key, module in adaptable(network, group, BottleneckLayer).items():
                if block := _block(key, group):
                    blocks.setdefault(block, {})[key] = module
            for members in blocks.values():
                sizes = {
                    key: features(module.base if isinstance(module, BottleneckLayer) else module)
                    for key, module in members.items()
                }
                hidden = next(iter(sizes.values()))[0]
                last = [key for key, (_, outputs) in sizes.items() if outputs == hidden][-1:]
                places |= {key: members[key] for key in last}
        if not places:
            raise BadRequest(
                f"{type(network).__name__} has no blocks with a last linear map.", "Choose another adapter."
            )
        return places


def _block(key: str, group: str) -> str:
    """The block a module belongs to; empty outside the numbered layers.

    A layer has one feed-forward block, whatever its parts are called (``mlp.down_proj``, ``output.dense``), but may
    have several attentions, told apart by the name after the number (``self_attn``, ``encoder_attn``).
    """
    parts = key.split(".")
    numbers = [place for place, part in enumerate(parts) if part.isdecimal()]
    if not numbers:
        return ""
    return ".".join(parts[: numbers[-1] + (2 if group == "attention" else 1)])


def _layers(network: nn.Module, name: str) -> dict[str, BottleneckLayer]:
    layers = adapter_layers(network)
    return {key: x for key, x in layers.items() if isinstance(x, BottleneckLayer) and x.holds(name)}


def _tensors(layer: BottleneckLayer, name: str) -> dict[str, torch.Tensor]:
    sides = {"down": layer.down[name], "up": layer.up[name]}
    return {f"{side}.{key}": p for side, module in sides.items() for key, p in module.named_parameters()}
