"""AdamW (Loshchilov and Hutter, 2019) with the usual parameter groups.

Weight decay applies to matrices only, not to norms, biases and other vectors. A parameter may carry its own factor on
the learning rate in the attribute `learning_rate_factor` (LoRA+, layer-wise decay).
"""

from __future__ import annotations

from collections import defaultdict

import torch
from pydantic import Field
from torch import nn

from posttrain.core.settings import Settings


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

    def build(self, parameters: dict[str, nn.Parameter], learning_rate: float) -> torch.optim.AdamW:
        """An optimizer over named parameters; each group remembers its `base_learning_rate` and parameter names."""
        groups: dict[tuple[float, float], list[str]] = defaultdict(list)
        for name, parameter in parameters.items():
            decay = self.weight_decay if parameter.ndim >= 2 else 0.0
            groups[decay, float(getattr(parameter, "learning_rate_factor", 1.0))].append(name)
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
