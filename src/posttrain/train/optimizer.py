"""AdamW (Loshchilov and Hutter, 2019) with the usual parameter groups.

Weight decay applies to matrices only, not to norms, biases and other vectors. A parameter may carry its own factor on
the learning rate in the attribute `learning_rate_factor` (LoRA+). With layer-wise decay (Howard and Ruder, 2018,
section 3.2, "discriminative fine-tuning"; Clark et al., 2020) lower layers, whose features are more general, learn more
slowly:

    rate(layer) = learning rate * decay ^ (layers above it)

where the head and the final norm are the highest layer and the embeddings the lowest.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import torch
from pydantic import Field

from posttrain.core.settings import Settings
from posttrain.models.surgery import layer_numbers

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Optimizer(Settings):
    """AdamW's hyperparameters."""

    weight_decay: float = Field(0.0, ge=0)
    """Decoupled weight decay on matrices."""

    beta1: float = Field(0.9, ge=0, lt=1)
    """Decay of the mean of gradients."""

    beta2: float = Field(0.999, ge=0, lt=1)
    """Decay of the mean of squared gradients."""

    epsilon: float = Field(1e-8, gt=0)
    """Added to the root of the mean square."""

    layer_decay: float | None = Field(None, gt=0, le=1)
    """Layer-wise decay: each layer's rate is this times the rate of the layer above it; null lets all learn alike."""

    def build(self, network: PreTrainedModel, learning_rate: float) -> torch.optim.AdamW:
        """An optimizer over the parameters that require a gradient.

        Each of its groups remembers its `base_learning_rate` and the `names` of its parameters.

        Raises:
            BadRequest: If rates are to differ between layers that the network doesn't have.
        """
        parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
        factors = self._factors(network)
        groups: dict[tuple[float, float], list[str]] = defaultdict(list)
        for name, parameter in parameters.items():
            decay = self.weight_decay if parameter.ndim >= 2 else 0.0
            own = float(getattr(parameter, "learning_rate_factor", 1.0))
            groups[decay, own * factors.get(name, 1.0)].append(name)
        return torch.optim.AdamW(
            [
                {
                    "params": [parameters[name] for name in names],
                    "weight_decay": decay,
                    "lr": learning_rate * factor,
                    "base_learning_rate": learning_rate * factor,
                    "names": names,
                }
                for (decay, factor), names in groups.items()
            ],
            betas=(self.beta1, self.beta2),
            eps=self.epsilon,
            foreach=True,
        )

    def _factors(self, network: PreTrainedModel) -> dict[str, float]:
        """The factor of each parameter's layer."""
        if self.layer_decay is None:
            return {}
        numbers, top = layer_numbers(network)
        return {name: self.layer_decay ** (top - number) for name, number in numbers.items()}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimizer's state as named tensors, ``moment-name/parameter-name``."""
    tensors: dict[str, torch.Tensor] = {}
    for group in optimizer.param_groups:
        for name, parameter in zip(group["names"], group["params"]):
            for key, value in optimizer.state.get(parameter, {}).items():
                tensors[f"{key}/{name}"] = torch.as_tensor(value)
    return tensors


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """Put back what `optimizer_tensors` gave."""
    by_name = {n: p for g in optimizer.param_groups for n, p in zip(g["names"], g["params"])}
    for key, tensor in tensors.items():
        moment, _, name = key.partition("/")
        parameter = by_name[name]
        # AdamW keeps its step counter on the CPU whatever the parameter's device.
        value = tensor.clone() if moment == "step" else tensor.to(parameter.device, parameter.dtype).clone()
        optimizer.state[parameter][moment] = value
