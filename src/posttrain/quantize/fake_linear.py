"""A linear layer that rounds its weights to a grid in every pass and trains the unrounded ones.

Scales follow the weights, or are parameters with the gradient of LSQ (Esser et al., 2020, equations 3 and 5). Learned
ones begin where they leave the least squared error, and are kept exact in half precision, as grids are stored. The
gradient of rounding is straight-through (Bengio et al., 2013).
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from posttrain.ops.affine import affine_parameters, fake_quantize, quantization_range
from posttrain.quantize.grid import Grid


class FakeQuantizedLinear(nn.Linear):
    """An nn.Linear whose weights count as what they are rounded to.

    Attributes:
        grid: What weights are rounded to.
        activation_bits: Width that inputs are rounded to as well, with one scale a row; None leaves them.
        step: float32 [outputs, groups], the scales if they are learned; else None.
        zero_point: int32 [outputs, groups], of a grid whose scales are learned; else None.
    """

    def __init__(self, layer: nn.Module, grid: Grid, activation_bits: int | None, learned_scales: bool) -> None:
        """Take a layer's place.

        Args:
            layer: An nn.Linear, whose parameters are shared, or a Conv1D, whose weight is turned round.
            grid: What weights are rounded to.
            activation_bits: 2 to 8, or None.
            learned_scales: Train the scales, too; they begin from the layer's weights.
        """
        weight = cast("Tensor", layer.weight)
        transposed = type(layer).__name__ == "Conv1D"
        outputs, inputs = reversed(weight.shape) if transposed else weight.shape
        super().__init__(inputs, outputs, bias=layer.bias is not None, device="meta")
        turned = nn.Parameter(weight.detach().T.contiguous(), requires_grad=weight.requires_grad)
        self.weight = turned if transposed else cast("nn.Parameter", weight)
        self.bias = cast("nn.Parameter", layer.bias)
        self.grid, self.activation_bits = grid, activation_bits
        self.step: nn.Parameter | None
        self.zero_point: Tensor | None
        self.register_parameter("step", None)
        self.register_buffer("zero_point", None)
        if learned_scales:
            scale, zero_point = grid.parameters(self.weight.detach())
            self.step, self.zero_point = nn.Parameter(scale), zero_point
        self.train(layer.training)

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs], computed with rounded weights."""
        return self._linear(x, self.effective_weight())

    def with_update(self, x: Tensor, update: Tensor) -> Tensor:
        """The same with an update [outputs, inputs] added to the weights before they are rounded."""
        return self._linear(x, self.effective_weight(update))

    def effective_weight(self, update: Tensor | None = None) -> Tensor:
        """The rounded weights, of the type of the weights; differentiable in weights, update and learned scales."""
        weight = self.weight if update is None else self.weight + update.to(self.weight.dtype)
        if self.step is not None:
            rounded: Tensor = _RoundedWithLearnedScales.apply(weight, self.step, self.zero_point, self.grid)
            return rounded
        scale, zero_point = self.grid.parameters(weight.detach())
        width = self.grid.width(self.in_features)
        return fake_quantize(weight, scale, zero_point, self.grid.bits, self.grid.symmetric, False, width)

    def grid_parameters(self) -> tuple[Tensor, Tensor]:
        """Scales and zero-points of the weights as they are now, in the form of `Grid.parameters`."""
        if self.step is None or self.zero_point is None:
            return self.grid.parameters(self.weight.detach())
        return _in_half(self.step.detach()), self.zero_point

    def extra_repr(self) -> str:
        """Shown when the network is printed."""
        more = f"{self.grid}, activation_bits={self.activation_bits}, learned_scales={self.step is not None}"
        return f"{super().extra_repr()}, {more}"

    def _linear(self, x: Tensor, weight: Tensor) -> Tensor:
        if self.activation_bits is not None:
            low, high = x.detach().float().aminmax(dim=-1, keepdim=True)
            scale, zero_point = affine_parameters(low, high, self.activation_bits, symmetric=True)
            x = fake_quantize(x, scale, zero_point, self.activation_bits, symmetric=True)
        return functional.linear(x, weight, self.bias)


class _RoundedWithLearnedScales(torch.autograd.Function):
    """Values of a grid, with the gradients of LSQ for weights and scales."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, weight: Tensor, step: Tensor, zero_point: Tensor, grid: Grid
    ) -> Tensor:
        scale = _in_half(step)
        codes = grid.codes(weight, scale, zero_point)
        ctx.save_for_backward(weight, scale, zero_point, codes)
        ctx.grid = grid
        return grid.values(codes, scale, zero_point).to(weight.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weight, scale, zero_point, codes = ctx.saved_tensors
        lowest, highest = quantization_range(ctx.grid.bits, ctx.grid.symmetric, signed=False)
        width = ctx.grid.width(weight.shape[1])
        ratio, upstream, levels = (_grouped(each.float(), width) for each in (weight, gradient, codes))
        ratio = ratio / scale[..., None]  # v of the paper, [outputs, groups, width]
        zero = zero_point[..., None].float()
        inside = (ratio + zero >= lowest) & (ratio + zero <= highest)
        # Equation 3, and section 2.2: a step's gradient sums over all its weights, so it is damped.
        slope = levels - zero - torch.where(inside, ratio, 0.0)
        damping = 1 / math.sqrt(width * (highest - lowest) / 2)
        to_step = (upstream * slope).sum(-1) * damping
        to_weight = (upstream * inside).flatten(1)[:, : weight.shape[1]].to(weight.dtype)
        return to_weight, to_step, None, None


def _grouped(matrix: Tensor, width: int) -> Tensor:
    """[outputs, inputs] -> [outputs, groups, width], the last group padded with zeros."""
    return functional.pad(matrix, (0, -matrix.shape[1] % width)).unflatten(1, (-1, width))


def _in_half(step: Tensor) -> Tensor:
    """Positive half-precision numbers next to steps, as float32."""
    half = torch.finfo(torch.float16)
    return step.abs().clamp(half.tiny, half.max).to(torch.float16).float()
