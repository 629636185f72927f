"""LoRA: low-rank adaptation (Hu et al., 2021, equation 3).

h = W0 x + (alpha / r) B A x, with A [r, d] drawn from a Kaiming-uniform distribution and B [k, r] zero, so that the
network computes exactly what it did before the first step. Works on linear maps, GPT-2's Conv1D and embeddings, and
writes and reads Hugging Face PEFT's checkpoint layout. Left out: ranks per layer and other initialisations.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from posttrain.adapt import Adapter, AdapterLayer, activate, adapter_layers
from posttrain.core.errors import BadRequest, Failure
from posttrain.models.surgery import effective_weight, features, replace, select, weight_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from posttrain.models.language_model import LanguageModel


class LoraLayer(AdapterLayer):
    """A linear map or an embedding with low-rank matrices beside it, one pair a named adapter."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__(base)
        self.A = nn.ParameterDict()  # [r, inputs] each
        self.B = nn.ParameterDict()  # [outputs, r] each
        self.scaling: dict[str, float] = {}
        self.dropout: dict[str, float] = {}

        self.is_linear = not isinstance(base, nn.Embedding)  # so that rules find it again

    @property
    def weight(self) -> torch.Tensor:
        """The base's weight, for code that looks at a module's dtype or shape."""
        return weight_of(self.base)

    def effective_weight(self) -> torch.Tensor:
        """The matrix that base and active adapter together amount to, differentiable."""
        weight = effective_weight(self.base)
        if self.active is None or self.active not in self.A:
            return weight
        return weight + self.delta(self.active)

    def add(self, name: str, rank: int, scaling: float, dropout: float) -> None:
        """Add an adapter: A Kaiming-uniform with a = sqrt(5) as in the authors' code, B zero."""
        inputs, outputs = features(self.base)
        weight = weight_of(self.base)
        dtype = weight.dtype if weight.dtype.is_floating_point else torch.float32
        a = torch.empty(rank, inputs, device=weight.device, dtype=dtype)
        if isinstance(self.base, nn.Embedding):
            nn.init.zeros_(a)  # the lookup side starts at zero, so that only looked-up rows ever move
            b = torch.randn(outputs, rank).to(weight.device, dtype)
        else:
            nn.init.kaiming_uniform_(a, a=math.sqrt(5))
            b = torch.zeros(outputs, rank, device=weight.device, dtype=dtype)
        self.A[name] = nn.Parameter(a)
        self.B[name] = nn.Parameter(b)
        self.scaling[name] = scaling
        self.dropout[name] = dropout

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., inputs] -> [..., outputs]; for an embedding ids [...] -> [..., outputs]."""
        output = self.base(x)
        if self.active is None or self.active not in self.A:
            return output
        a, b, scaling = self.A[self.active], self.B[self.active], self.scaling[self.active]
        if isinstance(self.base, nn.Embedding):
            return output + scaling * functional.linear(functional.embedding(x, a.T), b)
        x = functional.dropout(x.to(a.dtype), self.dropout[self.active], self.training)
        low = functional.linear(x.reshape(-1, x.shape[-1]), a)  # [N, r]
        flat = output.reshape(-1, output.shape[-1])
        return torch.addmm(flat, low.to(flat.dtype), b.T.to(flat.dtype), alpha=scaling).view(output.shape)

    def extra_repr(self) -> str:
        """Which adapter is in use and at what scale: part of what the layer computes."""
        return f"active={self.active}, scaling={self.scaling}"

    def delta(self, name: str) -> torch.Tensor:
        """(alpha / r) B A in the shape of the base's weight."""
        product = self.scaling[name] * (self.B[name] @ self.A[name])  # [outputs, inputs]
        transposed = isinstance(self.base, nn.Embedding) or type(self.base).__name__ == "Conv1D"
        return product.T if transposed else product


class Lora(Adapter):
    """Train low-rank matrices beside frozen weights."""

    default_learning_rate: ClassVar[float] = 2e-4

    rank: int = Field(8, ge=1)
    """Rank r of the update."""

    alpha: float = Field(16, gt=0)
    """Scale of the update: it is multiplied by alpha / rank."""

    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the input of the low-rank branch while training."""

    targets: str | list[str] = "attention"
    """Which modules: attention, mlp, all-linear, embeddings, module names, or a regular expression; one or a list."""

    def apply(self, network: PreTrainedModel, name: str = "default") -> None:
        """Freeze the network and put the low-rank branch beside each target."""
        _refuse_too_large(self.rank, chosen := _targets(network, self.targets))
        network.requires_grad_(False)
        for key, module in chosen.items():
            layer = module if isinstance(module, LoraLayer) else LoraLayer(module)
            if layer is not module:
                replace(network, key, layer)
            layer.add(name, self.rank, self.alpha / self.rank, self.dropout)
        activate(network, name)

    def merge(self, network: PreTrainedModel, name: str = "default") -> None:
        """W0 + (alpha / r) B A, then remove the branches of every adapter.

        Raises:
            BadRequest: If a base weight isn't floating point; merging there would round the update away.
        """
        _untie_if_adapted(network)
        for key, layer in _lora_layers(network).items():
            _add_delta(key, layer, name, 1.0)
            replace(network, key, layer.base)
        network.requires_grad_(True)

    def merge_in_place(self, network: PreTrainedModel, name: str = "default") -> None:
        """Fold the update into the base's weights but keep the branches, unused, so that `unmerge` can take it back."""
        _untie_if_adapted(network)
        for key, layer in _lora_layers(network).items():
            _add_delta(key, layer, name, 1.0)
        activate(network, None)

    def unmerge(self, network: PreTrainedModel, name: str = "default") -> None:
        """Undo `merge_in_place`, up to floating-point rounding."""
        for key, layer in _lora_layers(network).items():
            _add_delta(key, layer, name, -1.0)
        activate(network, name)

    def save(self, model: LanguageModel, folder: Path, name: str = "default") -> None:
        """Write ``adapter_model.safetensors`` and ``adapter_config.json`` as PEFT does."""
        from safetensors.torch import save_file

        tensors: dict[str, torch.Tensor] = {}
        for key, layer in _lora_layers(model.network).items():
            embedding = isinstance(layer.base, nn.Embedding)
            for side, values in (("A", layer.A), ("B", layer.B)):
                suffix = f"lora_embedding_{side}" if embedding else f"lora_{side}.weight"
                tensors[f"base_model.model.{key}.{suffix}"] = values[name].detach().cpu().contiguous()
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        config = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM" if model.is_causal else None,
            "base_model_name_or_path": model.card.get("base", model.reference),
            "r": self.rank,
            "lora_alpha": self.alpha,
            "lora_dropout": self.dropout,
            "target_modules": sorted(_lora_layers(model.network)),
            "bias": "none",
            "fan_in_fan_out": any(type(x.base).__name__ == "Conv1D" for x in _lora_layers(model.network).values()),
            "inference_mode": True,
        }
        (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, network: PreTrainedModel, folder: Path, name: str = "default") -> Self:
        """Attach an adapter written by this class or by PEFT.

        Raises:
            BadRequest: If the checkpoint uses something this class doesn't compute (DoRA, trained biases …).
            Failure: If the tensors don't fit the network.
        """
        from safetensors.torch import load_file

        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        _refuse_unsupported(config)
        rank, alpha = int(config["r"]), float(config["lora_alpha"])
        if config.get("use_rslora"):  # alpha / sqrt(r), Kalajdzievski 2023
            alpha *= math.sqrt(rank)
        tensors = load_file(folder / "adapter_model.safetensors")
        prefix, whole = "base_model.model.", ".base_layer.weight"
        names = {key.removeprefix(prefix).rsplit(".lora_", 1)[0] for key in tensors if ".lora_" in key}
        modules = dict(network.named_modules())
        if missing := sorted(names - set(modules)):
            raise Failure(f"The adapter {folder} changes '{missing[0]}', which {type(network).__name__} doesn't have.")
        adapter = cls(rank=rank, alpha=alpha, dropout=float(config.get("lora_dropout", 0)), targets=sorted(names))
        adapter.apply(network, name)
        for key in names:
            layer = network.get_submodule(key)
            assert isinstance(layer, LoraLayer)
            embedding = isinstance(layer.base, nn.Embedding)
            for side, values in (("A", layer.A), ("B", layer.B)):
                suffix = f"lora_embedding_{side}" if embedding else f"lora_{side}.weight"
                tensor = tensors[f"{prefix}{key}.{suffix}"]
                if tensor.shape != values[name].shape:
                    raise Failure(
                        f"The adapter {folder} doesn't fit: {key}.{suffix} is {list(tensor.shape)}, "
                        f"the network needs {list(values[name].shape)}."
                    )
                with torch.no_grad():
                    values[name].copy_(tensor)
            # PEFT stores the base of an adapted embedding too, in case the vocabulary has grown.
            stored = tensors.get(f"{prefix}{key}{whole}")
            if stored is not None and not torch.equal(stored, weight_of(layer.base).detach().cpu()):
                raise Failure(f"The adapter {folder} was made for a base with another {key}.", "Load that base.")
        return adapter


def _lora_layers(network: nn.Module) -> dict[str, LoraLayer]:
    return {key: layer for key, layer in adapter_layers(network).items() if isinstance(layer, LoraLayer)}


def _targets(network: PreTrainedModel, targets: str | list[str]) -> dict[str, nn.Module]:
    """The selected modules; one that already carries adapters is found through its wrapper."""
    chosen: dict[str, nn.Module] = {}
    layers = _lora_layers(network)
    for key, module in select(network, targets).items():
        owner = key.removesuffix(".base")
        chosen[owner] = layers.get(owner, module)
    return chosen


def _refuse_too_large(rank: int, modules: dict[str, nn.Module]) -> None:
    for key, module in modules.items():
        base = module.base if isinstance(module, LoraLayer) else module
        assert isinstance(base, nn.Module)
        if rank > min(features(base)):
            raise BadRequest(
                f"Rank {rank} is larger than the smaller side of {key} ({min(features(base))}).", "Choose a lower rank."
            )


def _refuse_unsupported(config: dict[str, Any]) -> None:
    unsupported = ("use_dora", "modules_to_save", "rank_pattern", "alpha_pattern", "layer_replication")
    for key in (*unsupported, "trainable_token_indices"):
        if config.get(key):
            raise BadRequest(f"The adapter uses '{key}', which lora doesn't compute.")
    if config.get("bias", "none") != "none":
        raise BadRequest(f"The adapter trains biases (bias={config['bias']!r}), which lora doesn't compute.")


def _add_delta(key: str, layer: LoraLayer, name: str, sign: float) -> None:
    if name not in layer.A:
        return
    weight = weight_of(layer.base)
    if not weight.dtype.is_floating_point or not isinstance(weight, nn.Parameter):
        raise BadRequest(
            f"{key} is quantized; merging would round the update away.", "Merge first, then quantize the merged model."
        )
    with torch.no_grad():
        weight.data.add_(layer.delta(name).to(weight.dtype), alpha=sign)


def _untie_if_adapted(network: PreTrainedModel) -> None:
    """Give an adapted embedding a weight of its own when the vocabulary head shares it: only one of the two moves."""
    embedding, head = network.get_input_embeddings(), network.get_output_embeddings()
    if head is None:
        return
    pair: list[nn.Module] = [module.base if isinstance(module, LoraLayer) else module for module in (embedding, head)]
    adapted = any(isinstance(module, LoraLayer) for module in (embedding, head))
    if adapted and weight_of(pair[0]) is weight_of(pair[1]):
        pair[0].weight = nn.Parameter(weight_of(pair[0]).detach().clone(), requires_grad=False)
        network.config.get_text_config().tie_word_embeddings = False
        network.config.tie_word_embeddings = False
