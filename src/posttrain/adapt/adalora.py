"""AdaLoRA: low-rank adaptation that gives each matrix the rank it needs (Zhang et al., 2023).

W = W0 + (alpha / r) P Λ Q, with P [k, r], Λ diagonal and Q [r, d] (equation 3; the scale is that of the authors'
code). P and Q are kept near orthogonal by a penalty (equation 4), so that the singular values in Λ, zero at first, can
be dropped one by one. A triplet of singular value, column of P and row of Q is scored by

    S = s(λ) + mean s(P column) + mean s(Q row),   s(w) = Ī(w) · Ū(w)   (equations 7 and 9 to 11),

where Ī is the smoothed sensitivity |w ∂L/∂w| and Ū its smoothed deviation. While the budget of triplets falls along a
cubic from `initial_rank` to `target_rank` a matrix, the lowest-scored λ are set to zero and may come back; after the
last choice they stay zero. Ties are broken, so the budget is met exactly; a run stopped early keeps that of its step.

PEFT's checkpoint layout is written, without the triplets that were dropped, and read. The penalty is the paper's sum of
squared norms; the authors' code and PEFT take the mean of norms, so that their weights of it aren't comparable.
"""

from __future__ import annotations

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
from posttrain.adapt._head import freeze_body, head_tensors, merge_head, peft_entries, restore_head
from posttrain.core import files
from posttrain.core.errors import BadRequest, Failure
from posttrain.models.surgery import effective_weight, features, replace, trained_dtype, weight_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from posttrain.models.language_model import LanguageModel

_PREFIX = "base_model.model."

# Settings that PEFT has under other names.
_PEFT_NAMES = {
    "initial_rank": "init_r",
    "target_rank": "target_r",
    "alpha": "lora_alpha",
    "dropout": "lora_dropout",
    "interval": "deltaT",
    "sensitivity_decay": "beta1",
    "uncertainty_decay": "beta2",
    "orthogonality": "orth_reg_weight",
}


class Triplets(nn.Module):
    """Singular values with their vectors, and what is known about the importance of each number.

    The first dimension of `P` is k and its second r, while scores are one a triplet: [r].
    """

    def __init__(self, inputs: int, outputs: int, rank: int, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        # The authors' deviation; far from orthogonal, which the penalty makes them within a few steps.
        self.P = nn.Parameter(0.02 * torch.randn(outputs, rank, device=device, dtype=dtype))
        self.values = nn.Parameter(torch.zeros(rank, device=device, dtype=dtype))
        self.Q = nn.Parameter(0.02 * torch.randn(rank, inputs, device=device, dtype=dtype))
        for key, parameter in list(self.named_parameters()):
            for number in ("sensitivity", "uncertainty"):
                zeros = torch.zeros_like(parameter, dtype=torch.float32, requires_grad=False)
                self.register_buffer(f"{number}_{key}", zeros, persistent=False)
        self.register_buffer("kept", torch.ones(rank, dtype=torch.bool, device=device), persistent=False)

    @property
    def rank(self) -> int:
        """How many triplets there are, dropped ones included."""
        return len(self.values)

    def observe(self, sensitivity_decay: float, uncertainty_decay: float) -> None:
        """Take the present gradients into the smoothed numbers (equations 8 to 10)."""
        for key, parameter in self.named_parameters():
            if parameter.grad is None:
                continue
            now = (parameter.detach() * parameter.grad).abs().float()
            mean, deviation = self.get_buffer(f"sensitivity_{key}"), self.get_buffer(f"uncertainty_{key}")
            mean.lerp_(now, 1 - sensitivity_decay)
            deviation.lerp_((now - mean).abs(), 1 - uncertainty_decay)

    def scores(self) -> torch.Tensor:
        """S of each triplet, [r] float32 (equation 7 with s from equation 11)."""

        def score(key: str) -> torch.Tensor:
            return self.get_buffer(f"sensitivity_{key}") * self.get_buffer(f"uncertainty_{key}")

        return score("values") + score("P").mean(0) + score("Q").mean(1)

    @torch.no_grad()
    def keep(self, kept: torch.Tensor) -> None:
        """Set the singular values that aren't kept ([r] bool) to zero."""
        self.get_buffer("kept").copy_(kept)
        self.values.masked_fill_(~kept, 0.0)

    def penalty(self) -> torch.Tensor:
        """||P^T P - I||^2 + ||Q Q^T - I||^2, Frobenius norms (equation 4)."""
        one = torch.eye(self.rank, device=self.P.device)
        p, q = self.P.float(), self.Q.float()
        return (p.T @ p - one).square().sum() + (q @ q.T - one).square().sum()


class AdaLoraLayer(AdapterLayer):
    """A linear map with triplets beside it, one set a named adapter."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__(base)
        self.triplets = nn.ModuleDict()
        self.scaling: dict[str, float] = {}
        self.dropout: dict[str, float] = {}
        self.is_linear = True  # so that rules find it again

    def holds(self, name: str) -> bool:
        """Whether there are triplets of this name."""
        return name in self.triplets

    def of(self, name: str) -> Triplets:
        """The triplets of an adapter."""
        found = self.triplets[name]
        assert isinstance(found, Triplets)
        return found

    def effective_weight(self) -> torch.Tensor:
        """The matrix that base and active adapter together amount to, differentiable."""
        weight = effective_weight(self.base)
        if not isinstance(self.active, str) or not self.holds(self.active):
            return weight
        return weight + self.delta(self.active)

    def add(self, name: str, rank: int, scaling: float, dropout: float) -> None:
        """Add an adapter: P and Q Gaussian, the singular values zero."""
        inputs, outputs = features(self.base)
        weight = weight_of(self.base)
        dtype = trained_dtype(self.base)
        self.triplets[name] = Triplets(inputs, outputs, rank, weight.device, dtype)
        self.scaling[name], self.dropout[name] = scaling, dropout

    def adapted(self, x: torch.Tensor, output: torch.Tensor, name: str) -> torch.Tensor:
        """W0 x + (alpha / r) P Λ Q x."""
        own = self.of(name)
        x = functional.dropout(x.to(own.Q.dtype), self.dropout[name], self.training)
        low = functional.linear(x.reshape(-1, x.shape[-1]), own.Q) * own.values  # [N, r]
        flat = output.reshape(-1, output.shape[-1])
        scaled = torch.addmm(flat, low.to(flat.dtype), own.P.T.to(flat.dtype), alpha=self.scaling[name])
        return scaled.view(output.shape)

    def delta(self, name: str) -> torch.Tensor:
        """(alpha / r) P Λ Q in the shape of the base's weight."""
        own = self.of(name)
        product = self.scaling[name] * (own.P * own.values) @ own.Q  # [outputs, inputs]
        return product.T if type(self.base).__name__ == "Conv1D" else product

    def extra_repr(self) -> str:
        """Which adapter is in use and at what scale: part of what the layer computes."""
        return f"active={self.active}, scaling={self.scaling}"


class AdaLora(Adapter):
    """Train low-rank updates in the form of singular values and vectors, and drop the unimportant ones."""

    default_learning_rate: ClassVar[float] = 5e-4

    initial_rank: int = Field(12, ge=1)
    """Rank of every matrix at the start."""

    target_rank: int = Field(8, ge=1)
    """Mean rank of a matrix at the end; the budget is this times the number of matrices."""

    alpha: float = Field(16, gt=0)
    """Scale of the update: it is multiplied by alpha / initial_rank."""

    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the input of the low-rank branch while training."""

    targets: str | list[str] = "attention"
    """Which modules: attention, mlp, all-linear, module names, or a regular expression; one or a list."""

    warmup: float = Field(0.1, ge=0)
    """Steps before the budget starts to fall: below 1 a share of all steps, from 1 on a number of steps."""

    final: float = Field(0.3, ge=0)
    """Steps at the end with the ranks as they are, as a share or a number."""

    interval: int = Field(1, ge=1)
    """Steps from one choice of triplets to the next."""

    sensitivity_decay: float = Field(0.85, ge=0, lt=1)
    """Decay of the mean of sensitivities."""

    uncertainty_decay: float = Field(0.85, ge=0, lt=1)
    """Decay of the mean of their deviations."""

    orthogonality: float = Field(0.1, ge=0)
    """Weight of the orthogonality penalty in the loss."""

    def apply(self, network: PreTrainedModel, name: str = "default") -> None:
        """Freeze the network and put triplets beside each target.

        Raises:
            BadRequest: If the target rank is above the initial one, a matrix is too small, or a target isn't linear.
        """
        if self.target_rank > self.initial_rank:
            raise BadRequest(
                f"target_rank {self.target_rank} is above initial_rank {self.initial_rank}.", "Ranks only ever fall."
            )
        self._attach(network, name, {})

    def _attach(self, network: PreTrainedModel, name: str, ranks: dict[str, int]) -> None:
        """Attach with the initial rank, or with another one where given."""
        chosen = adaptable(network, self.targets, AdaLoraLayer)
        for key, module in chosen.items():
            if isinstance(module, nn.Embedding):
                raise BadRequest(f"{key} is an embedding; only linear maps can be adapted this way.")
            smaller = min(features(module.base if isinstance(module, AdaLoraLayer) else module))
            if ranks.get(key, self.initial_rank) > smaller:
                raise BadRequest(
                    f"Rank {self.initial_rank} is larger than the smaller side of {key} ({smaller}).",
                    "Choose a lower initial_rank.",
                )
        freeze_body(network, name)
        for key, module in chosen.items():
            layer = module if isinstance(module, AdaLoraLayer) else AdaLoraLayer(module)
            if layer is not module:
                replace(network, key, layer)
            layer.add(name, ranks.get(key, self.initial_rank), self.alpha / self.initial_rank, self.dropout)
        activate(network, name)

    # -- training ------------------------------------------------------------------------------------------------------

    def budget(self, step: int, steps: int, start: int, end: int) -> int:
        """Triplets that may be left after a step (equation 12, with the cubic from 1 at warm-up's end to 0).

        Args:
            step: Number of the step, 1 … steps.
            steps: All steps.
            start: Triplets there are.
            end: Triplets there shall be.

        Raises:
            BadRequest: If warm-up and final phase leave no steps in between.
        """
        first, last = self._phases(steps)
        left = 1 - (min(max(step, first), last) - first) / (last - first)
        return int((start - end) * left**3 + end)

    def _phases(self, steps: int) -> tuple[int, int]:
        """The last step with the whole budget, and the step after which the choice stands."""
        first, rest = (round(x * steps) if x < 1 else int(x) for x in (self.warmup, self.final))
        if first >= steps - rest:
            raise BadRequest(
                f"Of {steps} steps, {first} of warm-up and {rest} at the end leave none to choose the ranks in.",
                "Lower warmup or final, or train for longer.",
            )
        return first, steps - rest

    def penalty(self, network: PreTrainedModel) -> torch.Tensor | None:
        """The weighted penalty, summed over the matrices."""
        found = _in_use(network).values()
        if not found or not self.orthogonality:
            return None
        return self.orthogonality * torch.stack([triplets.penalty() for triplets in found]).sum()

    def before_update(self, network: PreTrainedModel, step: int, steps: int) -> None:
        """Observe the gradients until the choice stands."""
        if step <= self._phases(steps)[1]:
            for triplets in _in_use(network).values():
                triplets.observe(self.sensitivity_decay, self.uncertainty_decay)

    def after_update(self, network: PreTrainedModel, step: int, steps: int) -> None:
        """Drop what is over the budget; after the last choice, undo what the optimizer did to the dropped ones."""
        found = list(_in_use(network).values())
        first, last = self._phases(steps)
        if step > last:
            for triplets in found:
                triplets.keep(triplets.get_buffer("kept").clone())
        elif step == last or (step > first and step % self.interval == 0):
            start = sum(triplets.rank for triplets in found)
            end = min(start, self.target_rank * len(found))
            order = torch.cat([triplets.scores() for triplets in found]).argsort(descending=True, stable=True)
            kept = torch.zeros_like(order, dtype=torch.bool)
            kept[order[: self.budget(step, steps, start, end)]] = True
            for triplets, own in zip(found, kept.split([triplets.rank for triplets in found])):
                triplets.keep(own)

    def state(self, network: PreTrainedModel) -> dict[str, torch.Tensor]:
        """The smoothed numbers and the present choice."""
        return {f"{key}.{n}": b for key, triplets in _in_use(network).items() for n, b in triplets.named_buffers()}

    # -- what comes out ------------------------------------------------------------------------------------------------

    def merge(self, network: PreTrainedModel, name: str = "default") -> None:
        """W0 + (alpha / r) P Λ Q, then remove the triplets of every adapter.

        Raises:
            BadRequest: If a base weight isn't floating point; merging there would round the update away.
        """
        untie_if_adapted(network)
        for key, layer in _layers(network).items():
            if layer.holds(name):
                add_to_weight(key, layer.base, layer.delta(name))
            replace(network, key, layer.base)
        merge_head(network, name)
        network.requires_grad_(True)

    def save(self, model: LanguageModel, folder: Path, name: str = "default") -> None:
        """Write ``adapter_model.safetensors`` and ``adapter_config.json`` as PEFT does, without dropped triplets."""
        from safetensors.torch import save_file

        layers = {key: layer for key, layer in _layers(model.network).items() if layer.holds(name)}
        tensors = head_tensors(model.network, name, _PREFIX)
        pattern: dict[str, list[bool]] = {}
        for key, layer in layers.items():
            own = layer.of(name)
            left = own.get_buffer("kept") | (own.values != 0)  # between two choices a dropped one may be in use
            # One entry a triplet of the initial rank; a loaded adapter has already lost those that were dropped.
            pattern[f"{key}.lora_E"] = left.tolist() + [False] * (self.initial_rank - own.rank)
            for side, tensor in (("A", own.Q[left]), ("B", own.P[:, left]), ("E", own.values[left, None])):
                tensors[f"{_PREFIX}{key}.lora_{side}"] = tensor.detach().cpu().contiguous()
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        config = {
            "peft_type": "ADALORA",
            **peft_entries(model),
            "base_model_name_or_path": model.card.get("base", model.reference),
            **{theirs: getattr(self, ours) for ours, theirs in _PEFT_NAMES.items()},
            # The schedule is over, and its length was the training's, not the adapter's; PEFT wants some.
            "tinit": 0,
            "tfinal": 0,
            "total_step": 1,
            "rank_pattern": pattern if not all(map(all, pattern.values())) else None,
            "target_modules": sorted(layers),
            "bias": "none",
            "fan_in_fan_out": any(type(layer.base).__name__ == "Conv1D" for layer in layers.values()),
            "inference_mode": True,
        }
        files.write_json(folder / "adapter_config.json", config)

    @classmethod
    def load(cls, network: PreTrainedModel, folder: Path, name: str = "default") -> Self:
        """Attach an adapter written by this class or by PEFT.

        Raises:
            BadRequest: If the checkpoint uses something this class doesn't compute.
            Failure: If the tensors don't fit the network.
        """
        from safetensors.torch import load_file

        config = files.read_json(folder / "adapter_config.json")
        _refuse_unsupported(config)
        tensors = load_file(folder / "adapter_model.safetensors")
        ranks = {
            key.removeprefix(_PREFIX).removesuffix(".lora_E"): len(tensor)
            for key, tensor in tensors.items()
            if key.endswith(".lora_E")
        }
        modules = dict(network.named_modules())
        if missing := sorted(ranks.keys() - modules.keys()):
            raise Failure(f"The adapter {folder} changes '{missing[0]}', which {type(network).__name__} doesn't have.")
        settings = {ours: config[theirs] for ours, theirs in _PEFT_NAMES.items() if config.get(theirs) is not None}
        adapter = cls.parse({**settings, "targets": sorted(ranks)})
        adapter._attach(network, name, ranks)
        for key in ranks:
            layer = network.get_submodule(key)
            assert isinstance(layer, AdaLoraLayer)
            own = layer.of(name)
            for side, parameter in (("A", own.Q), ("B", own.P), ("E", own.values[:, None])):
                tensor = tensors.get(f"{_PREFIX}{key}.lora_{side}")
                if tensor is None or tensor.shape != parameter.shape:
                    found = "missing" if tensor is None else str(list(tensor.shape))
                    raise Failure(
                        f"The adapter {folder} doesn't fit: {key}.lora_{side} is {found}, "
                        f"the network needs {list(parameter.shape)}."
                    )
                parameter.data.copy_(tensor)
        restore_head(network, name, tensors, folder, _PREFIX, config.get("modules_to_save"))
        return adapter


def _layers(network: nn.Module) -> dict[str, AdaLoraLayer]:
    return {key: layer for key, layer in adapter_layers(network).items() if isinstance(layer, AdaLoraLayer)}


def _in_use(network: nn.Module) -> dict[str, Triplets]:
    """The triplets of the active adapter by dotted name."""
    return {
        f"{key}.triplets.{layer.active}": layer.of(layer.active)
        for key, layer in _layers(network).items()
        if isinstance(layer.active, str) and layer.holds(layer.active)
    }


def _refuse_unsupported(config: dict[str, Any]) -> None:
    for key in ("layer_replication", "trainable_token_indices"):
        if config.get(key):
            raise BadRequest(f"The adapter uses '{key}', which adalora doesn't compute.")
    if config.get("bias", "none") != "none":
        raise BadRequest(f"The adapter trains biases (bias={config['bias']!r}), which adalora doesn't compute.")
