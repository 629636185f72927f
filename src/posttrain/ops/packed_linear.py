"""Linear layers over weights of 1 to 8 bits, in groups of inputs that share a scale: native kernels, and torch.

A row of codes is packed densely, little-endian, as `affine.pack` does it; w = s (q - z) with a half-precision scale and
an integer zero-point a group, or one in the middle of the codes. Activations stay in floating point. The products
s (q - z) are exact in float32, so the kernels compute with precisely the matrix that `packed_weight` gives, and only
float32 sums are rounded.

Four bits are decoded in registers for a few rows; other widths and more rows through a strip of four outputs in the
first-level cache. Without the native library, away from a CPU, or where groups don't start on whole bytes, torch makes
the matrix and multiplies.

Left out: rounding the activations.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from posttrain.ops import affine, kernels

# Eight codes fill whole bytes, whatever their width.
_CODES = 8


def packed_linear(
    x: Tensor,
    codes: Tensor,
    scale: Tensor,
    zero_point: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    bits: int,
    group_size: int,
) -> Tensor:
    """`x @ packed_weight(…).T + bias` with the weights read as they are packed.

    With the native kernels the result of a row doesn't depend on the other rows of the call, to the bit. Differentiable
    with respect to `x` and `bias`.

    Args:
        x: fp32 `[..., inputs]`; other types are computed by torch.
        codes: uint8 `[outputs, ceil(inputs * bits / 8)]`.
        scale: fp16 `[outputs, groups]`, finite.
        zero_point: uint8 `[outputs, ceil(groups * bits / 8)]`, packed like the codes; None for `middle(bits)`.
        bias: fp32 `[outputs]`.
        bits: 1 to 8.
        group_size: Inputs that share a scale; the last group may be shorter.

    Returns:
        `[..., outputs]` in the type of `x`.

    Raises:
        ValueError: Shapes or types that don't belong together.
    """
    if torch.is_grad_enabled() and (x.requires_grad or (bias is not None and bias.requires_grad)):
        result: Tensor = _PackedLinear.apply(x, codes, scale, zero_point, bias, bits, group_size)
        return result
    return _forward(x, codes, scale, zero_point, bias, bits, group_size)


def packed_linear_reference(
    x: Tensor,
    codes: Tensor,
    scale: Tensor,
    zero_point: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    bits: int,
    group_size: int,
) -> Tensor:
    """What `packed_linear` computes, in torch operations only, on any device; same arguments."""
    inputs = _check(x, codes, scale, zero_point, bias, bits, group_size)
    weight = packed_weight(codes, scale, zero_point, bits=bits, group_size=group_size, inputs=inputs)
    y = functional.linear(x.float(), weight, None if bias is None else bias.float())
    return y.to(x.dtype)


def packed_weight(
    codes: Tensor, scale: Tensor, zero_point: Tensor | None, *, bits: int, group_size: int, inputs: int
) -> Tensor:
    """The matrix s (q - z), float32 `[outputs, inputs]`; the arguments are those of `packed_linear`."""
    values = affine.unpack(codes, bits, inputs)
    if zero_point is None:
        shift = torch.full_like(scale, middle(bits), dtype=torch.float32)
    else:
        shift = affine.unpack(zero_point, bits, scale.shape[1]).float()
    return affine.dequantize(values, scale.float(), shift, group_size)


def middle(bits: int) -> float:
    """What codes count from without zero-points: 2^(bits - 1), and 1 / 2 for one bit, whose values are -s/2 and s/2."""
    return 0.5 if bits == 1 else float(1 << (bits - 1))


class _PackedLinear(torch.autograd.Function):
    """Gradients of `packed_linear` for the activations and the bias; the weights are fixed."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        x: Tensor,
        codes: Tensor,
        scale: Tensor,
        zero_point: Tensor | None,
        bias: Tensor | None,
        bits: int,
        group_size: int,
    ) -> Tensor:
        ctx.save_for_backward(codes, scale, zero_point)
        ctx.bits, ctx.group_size, ctx.inputs = bits, group_size, x.shape[-1]
        return _forward(x, codes, scale, zero_point, bias, bits, group_size)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        to_x = None
        if ctx.needs_input_grad[0]:
            weight = packed_weight(*ctx.saved_tensors, bits=ctx.bits, group_size=ctx.group_size, inputs=ctx.inputs)
            to_x = gradient @ weight.to(gradient.dtype)
        to_bias = gradient.float().sum(tuple(range(gradient.dim() - 1))) if ctx.needs_input_grad[4] else None
        return to_x, None, None, None, to_bias, None, None


def _forward(
    x: Tensor,
    codes: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    bias: Tensor | None,
    bits: int,
    group_size: int,
) -> Tensor:
    library = kernels.native_library()
    parts = [part for part in (codes, scale, zero_point, bias) if part is not None]
    if (
        library is None
        or not kernels.is_plain(x)
        or not all(part.is_cpu and part.is_contiguous() for part in parts)
        or scale.dtype is not torch.float16
        or (bias is not None and bias.dtype is not torch.float32)
        or x.numel() == 0
        or len(codes) == 0
        or (group_size % _CODES != 0 and group_size < x.shape[-1])
    ):
        return packed_linear_reference(x, codes, scale, zero_point, bias, bits=bits, group_size=group_size)
    inputs = _check(x, codes, scale, zero_point, bias, bits, group_size)
    outputs = codes.shape[0]
    y = torch.empty((*x.shape[:-1], outputs))
    if not x.is_contiguous():
        x = x.contiguous()
    failed = library.posttrain_packed_linear(
        x.data_ptr(),
        x.numel() // inputs,
        inputs,
        codes.data_ptr(),
        bits,
        scale.data_ptr(),
        None if zero_point is None else zero_point.data_ptr(),
        min(group_size, inputs),
        None if bias is None else bias.data_ptr(),
        outputs,
        y.data_ptr(),
        torch.get_num_threads(),
    )
    if failed:
        raise MemoryError(f"no memory for the working copy of {x.numel()} activations")
    return y


def _check(
    x: Tensor,
    codes: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    bias: Tensor | None,
    bits: int,
    group_size: int,
) -> int:
    """Inputs of the layer; the native kernels trust these shapes with raw memory."""
    if not 1 <= bits <= 8 or group_size < 1:
        raise ValueError(f"bits must be 1 to 8 and group_size positive, not {bits} and {group_size}")
    if x.dim() == 0:
        raise ValueError("activations must have at least one dimension")
    inputs = x.shape[-1]
    groups = math.ceil(inputs / group_size)
    for name, part, width in (("codes", codes, inputs), ("zero_point", zero_point, groups)):
        size = math.ceil(width * bits / 8)
        if part is not None and (part.dtype is not torch.uint8 or part.shape != (codes.shape[0], size)):
            raise ValueError(
                f"{name} for {inputs} inputs must be uint8 [outputs, {size}], not {part.dtype} {list(part.shape)}"
            )
    if not scale.dtype.is_floating_point or scale.shape != (codes.shape[0], groups):
        raise ValueError(f"scale must be [{codes.shape[0]}, {groups}], not {scale.dtype} {list(scale.shape)}")
    if bias is not None and (not bias.dtype.is_floating_point or bias.shape != codes.shape[:1]):
        raise ValueError(f"bias must be [{codes.shape[0]}], not {bias.dtype} {list(bias.shape)}")
    return inputs
