"""A linear layer with int8 weights: one scale an output channel, integer arithmetic on the activations if asked."""

from __future__ import annotations

import torch
from torch import nn

from posttrain.ops.kernels import int8_linear


class Int8Linear(nn.Module):
    """Stands where an nn.Linear or GPT-2's Conv1D stood; it has no parameters, so nothing trains it.

    Attributes:
        weight: int8 [outputs, inputs].
        scale: float32 [outputs]; the matrix is weight * scale[:, None].
        bias: float32 [outputs] or None.
        dynamic: Whether activations are quantized row by row on the fly.
    """

    is_linear = True

    def __init__(self, inputs: int, outputs: int, bias: bool, dynamic: bool) -> None:
        super().__init__()
        self.in_features, self.out_features, self.dynamic = inputs, outputs, dynamic
        self.weight: torch.Tensor
        self.scale: torch.Tensor
        self.bias: torch.Tensor | None
        self.register_buffer("weight", torch.empty(outputs, inputs, dtype=torch.int8))
        self.register_buffer("scale", torch.empty(outputs, dtype=torch.float32))
        self.register_buffer("bias", torch.empty(outputs, dtype=torch.float32) if bias else None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., inputs] -> [..., outputs] in the type of `x`; differentiable with respect to `x`."""
        return int8_linear(x, self.weight, self.scale, self.bias, dynamic=self.dynamic)

    def effective_weight(self) -> torch.Tensor:
        """The matrix it amounts to, float32 [outputs, inputs]."""
        return self.weight.float() * self.scale[:, None]

    def extra_repr(self) -> str:
        """Shown when the network is printed."""
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}, dynamic={self.dynamic}"


def matrix_of(layer: nn.Module) -> torch.Tensor:
    """The weight of an nn.Linear or a Conv1D, without gradient, as float32 [outputs, inputs]."""
    assert isinstance(layer.weight, torch.Tensor)
    weight = layer.weight.detach().float()
    return weight.T if type(layer).__name__ == "Conv1D" else weight
