"""LoRA: low-rank adaptation (Hu et al., 2021, equation 3).

h = W0 x + (alpha / r) B A x, with A [r, d] drawn from a Kaiming-uniform distribution and B [k, r] zero, so that the
network computes exactly what it did before the first step. Works on linear maps, GPT-2's Conv1D and embeddings, and
writes and reads Hugging Face PEFT's checkpoint layout. Several adapters of one base are combined by weights without
any approximation. Left out: ranks per layer and other initialisations.
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

from posttrain.adapt import (
    Adapter,
    AdapterLayer,
    activate,
    adaptable,
    adapter_layers,
    add_to_weight,
    untie_if_adapted,
)
from posttrain.adapt._head import (
    freeze_body,
    head_layers,
    head_tensors,
    keep_head,
    merge_head,
    peft_entries,
    restore_head,
)
from posttrain.core.errors import BadRequest, Failure
from posttrain.models.surgery import effective_weight, features, replace, trained_dtype, weight_of

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

    def holds(self, name: str) -> bool:
        """Whether there is a pair of matrices of this name."""
        return name in self.A

    def effective_weight(self) -> torch.Tensor:
        """The matrix that base and active adapter together amount to, differentiable."""
        if not isinstance(self.active, str) or not self.holds(self.active):
            return effective_weight(self.base)
        base: Any = self.base
        if hasattr(base, "with_update"):
            rounded: torch.Tensor = base.effective_weight(self.delta(self.active))
            return rounded
        return effective_weight(base) + self.delta(self.active)

    def add(self, name: str, rank: int, scaling: float, dropout: float) -> None:
        """Add an adapter: A Kaiming-uniform with a = sqrt(5) as in the authors' code, B zero."""
        inputs, outputs = features(self.base)
        weight = weight_of(self.base)
        dtype = trained_dtype(self.base)
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

    def adapted(self, x: torch.Tensor, output: torch.Tensor, name: str) -> torch.Tensor:
        """W0 x + (alpha / r) B A x; a base that rounds its weights adds the product to them first."""
        if (with_update := getattr(self.base, "with_update", None)) is not None:
            rounded: torch.Tensor = with_update(x, self.delta(name))
            return rounded
        a, b, scaling = self.A[name], self.B[name], self.scaling[name]
        if isinstance(self.base, nn.Embedding):
            return output + scaling * functional.linear(functional.embedding(x, a.T), b)
        x = functional.dropout(x.to(a.dtype), self.dropout[name], self.training)
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
        _refuse_too_large(self.rank, chosen := adaptable(network, self.targets, LoraLayer))
        freeze_body(network, name)
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
        untie_if_adapted(network)
        for key, layer in _lora_layers(network).items():
            _add_delta(key, layer, name)
            replace(network, key, layer.base)
        merge_head(network, name)
        network.requires_grad_(True)

    def merge_in_place(self, network: PreTrainedModel, name: str = "default") -> None:
        """Fold the update into the base's weights but keep the branches, unused, so that `unmerge` can take it back."""
        untie_if_adapted(network)
        for key, layer in _lora_layers(network).items():
            _add_delta(key, layer, name)
        activate(network, None)
        keep_head(network, name)

    def unmerge(self, network: PreTrainedModel, name: str = "default") -> None:
        """Undo `merge_in_place`, up to floating-point rounding."""
        for key, layer in _lora_layers(network).items():
            _add_delta(key, layer, name, -1.0)
        activate(network, name)

    @classmethod
    def combine(cls, network: PreTrainedModel, weights: dict[str, float], name: str = "mix") -> Self:
        """Attach and activate the weighted sum of adapters that the network carries.

        The sum of w_i (alpha_i / r_i) B_i A_i is one product again, of the A_i stacked and the scaled B_i side by
        side: exact, with the sum of the ranks. The combination is frozen; the adapters stay.

        Args:
            network: One that carries the adapters.
            weights: By adapter; negative ones take something away.
            name: Of the combination.

        Returns:
            The settings of the combination, with which it can be saved or merged.

        Raises:
            BadRequest: If an adapter is missing or has a task's head, the name is taken, or the ranks add up to more
                than a matrix has.
        """
        layers = _lora_layers(network)
        for each in weights:
            if not any(layer.holds(each) for layer in layers.values()):
                raise BadRequest(f"The network carries no adapter '{each}'.", "Apply or load it under this name first.")
        if head_layers(network):
            raise BadRequest("Adapters that each have a head for their task can't be combined.", "Use one at a time.")
        if not weights or any(layer.holds(name) for layer in layers.values()):
            raise BadRequest(
                f"'{name}' is an adapter already." if weights else "There are no adapters to combine.",
                "Choose another name." if weights else "Give names with weights.",
            )
        ranks = {each: max(len(x.A[each]) for x in layers.values() if x.holds(each)) for each in weights}
        changed = {key: x for key, x in layers.items() if any(x.holds(each) for each in weights)}
        rank = sum(ranks.values())
        _refuse_too_large(rank, dict(changed))
        for layer in changed.values():
            layer.add(name, rank, scaling=1.0, dropout=0.0)
            a, b = (values[name].requires_grad_(False).zero_() for values in (layer.A, layer.B))
            end = 0
            for each, weight in weights.items():  # rows of A and columns of B of an adapter not held here stay zero
                if layer.holds(each):
                    own = slice(end, end + len(layer.A[each]))
                    a[own] = layer.A[each].detach()
                    b[:, own] = weight * layer.scaling[each] * layer.B[each].detach()
                end += ranks[each]
        activate(network, name)
        return cls(rank=rank, alpha=rank, targets=sorted(changed))

    def save(self, model: LanguageModel, folder: Path, name: str = "default") -> None:
        """Write ``adapter_model.safetensors`` and ``adapter_config.json`` as PEFT does."""
        from safetensors.torch import save_file

        tensors = head_tensors(model.network, name, "base_model.model.")
        for key, layer in _lora_layers(model.network).items():
            embedding = isinstance(layer.base, nn.Embedding)
            for side, values in (("A", layer.A), ("B", layer.B)):
                suffix = f"lora_embedding_{side}" if embedding else f"lora_{side}.weight"
                tensors[f"base_model.model.{key}.{suffix}"] = values[name].detach().cpu().contiguous()
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        config = {
            "peft_type": "LORA",
            **peft_entries(model),
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
        restore_head(network, name, tensors, folder, prefix, config.get("modules_to_save"))
        return adapter


def _lora_layers(network: nn.Module) -> dict[str, LoraLayer]:
    return {key: layer for key, layer in adapter_layers(network).items() if isinstance(layer, LoraLayer)}


def _refuse_too_large(rank: int, modules: dict[str, nn.Module]) -> None:
    for key, module in modules.items():
        base = module.base if isinstance(module, LoraLayer) else module
        assert isinstance(base, nn.Module)
        if rank > min(features(base)):
            raise BadRequest(
                f"Rank {rank} is larger than the smaller side of {key} ({min(features(base))}).", "Choose a lower rank."
            )


def _refuse_unsupported(config: dict[str, Any]) -> None:
    unsupported = ("use_dora", "rank_pattern", "alpha_pattern", "layer_replication")
    for key in (*unsupported, "trainable_token_indices"):
        if config.get(key):
            raise BadRequest(f"The adapter uses '{key}', which lora doesn't compute.")
    if config.get("bias", "none") != "none":
        raise BadRequest(f"The adapter trains biases (bias={config['bias']!r}), which lora doesn't compute.")


def _add_delta(key: str, layer: LoraLayer, name: str, sign: float = 1.0) -> None:
    if layer.holds(name):
        add_to_weight(key, layer.base, layer.delta(name), sign)
