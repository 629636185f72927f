"""A linear layer with weights in half precision, for activations in float32.

How the product is computed on a CPU is what was the fastest of those that lose nothing but rounding. bfloat16 is
multiplied as it is where the processor can, in half to a quarter of float32's time; the activations are rounded to it
then. float16 is multiplied as it is for a single row, where reading the weights is all that counts. Everything else
goes through float32 in strips that stay in the cache, as fast as float32 for large layers: torch's own products of
several rows in float16 take three times as long.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from posttrain.models.surgery import features
from posttrain.ops.linear import linear

if TYPE_CHECKING:
    from collections.abc import Iterator

# Weights that are turned into float32 at a time: 4 MB.
_STRIP = 1 << 20


class HalfLinear(nn.Module):
    """Stands where an nn.Linear or GPT-2's Conv1D stood; it has no parameters, so nothing trains it.

    Attributes:
        weight: float16 or bfloat16 [outputs, inputs].
        bias: float32 [outputs] or None.
    """

    is_linear = True

    def __init__(self, inputs: int, outputs: int, bias: bool, dtype: torch.dtype) -> None:
        super().__init__()
        self.in_features, self.out_features = inputs, outputs
        self.weight: Tensor
        self.bias: Tensor | None
        self.register_buffer("weight", torch.empty(outputs, inputs, dtype=dtype))
        self.register_buffer("bias", torch.empty(outputs, dtype=torch.float32) if bias else None)

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs] in the type of `x`; differentiable with respect to `x`."""
        y: Tensor = _Product.apply(x, self.weight)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def effective_weight(self) -> Tensor:
        """The matrix it amounts to, float32 [outputs, inputs]."""
        return self.weight.float()

    def extra_repr(self) -> str:
        """Shown when the network is printed, and part of a model's fingerprint."""
        dtype = str(self.weight.dtype).removeprefix("torch.")
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}, dtype={dtype}"


class _Product(torch.autograd.Function):
    """x W^T with a fixed W in half precision."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        if _as_it_is(x, weight):
            return functional.linear(x.to(weight.dtype), weight).to(x.dtype)
        parts = [linear(x, strip) for strip in _strips(weight, x.dtype)]
        return torch.cat(parts, -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (weight,) = ctx.saved_tensors
        rows = [strip.shape[0] for strip in weight.split(_rows(weight))]
        found = gradient.new_zeros(*gradient.shape[:-1], weight.shape[1])
        for part, strip in zip(gradient.split(rows, -1), _strips(weight, gradient.dtype)):
            found += part @ strip
        return found, None


def empty_half(layer: nn.Module, dtype: torch.dtype) -> HalfLinear:
    """A `HalfLinear` for the place of a layer, with empty tensors."""
    inputs, outputs = features(layer)
    return HalfLinear(inputs, outputs, layer.bias is not None, dtype)


def _as_it_is(x: Tensor, weight: Tensor) -> bool:
    """Whether the product is computed in the weight's own type."""
    if x.dtype == weight.dtype or not x.is_cpu:
        return True
    if x.dtype != torch.float32:
        return False
    if weight.dtype == torch.bfloat16:
        return _multiplies_bfloat16()
    # A product of two numbers that float16 has may be too large for it, but only activations that it hasn't are likely.
    return x.numel() == x.shape[-1] and float(x.abs().max()) < torch.finfo(torch.float16).max


@cache
def _multiplies_bfloat16() -> bool:
    """Whether the processor does."""
    mkldnn: Any = torch.ops.mkldnn
    return torch.backends.mkldnn.is_available() and bool(mkldnn._is_mkldnn_bf16_supported())


def _rows(weight: Tensor) -> int:
    return max(1, _STRIP // weight.shape[1])


def _strips(weight: Tensor, dtype: torch.dtype) -> Iterator[Tensor]:
    """The matrix in another type, some rows at a time; each strip is overwritten by the next one."""
    rows = _rows(weight)
    strip = weight.new_empty(min(rows, len(weight)), weight.shape[1], dtype=dtype)
    for part in weight.split(rows):
        yield strip[: len(part)].copy_(part)
