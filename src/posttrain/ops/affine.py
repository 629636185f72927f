"""Affine quantization: x_q = clamp(round(x / s + z)), x ~ s (x_q - z), on 2 to 8 bits, and dense packing of the codes.

Source: Jacob et al. (2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference"), equation 1; symmetric ranges and granularities as surveyed by Nagel et al. (2021, "A White Paper on Neural
Network Quantization"), section 2. Rounding is half to even, arithmetic in float32. Inside the range that the parameters
were made for, every x is reproduced to within s / 2.

One scale and zero-point serve a whole tensor (shape []), one index of a dimension ("channel": shape broadcastable to x,
such as [C, 1]), or `group_size` consecutive entries of the last dimension ("group": shape [..., G] with
G = ceil(length / group_size); the last group is shorter when the length is no multiple).

Left out: choosing the range (observers), and learned scales.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

Granularity = Literal["tensor", "channel", "group"]


def quantization_range(bits: int, symmetric: bool, signed: bool) -> tuple[int, int]:
    """The smallest and the largest code.

    Asymmetric codes use all 2^bits values. Symmetric codes leave the lowest one out, so that the range is the same on
    both sides of zero and its ends are exact: +-(2^(bits-1) - 1) when signed, and the same around 2^(bits-1) when not.

    Raises:
        ValueError: bits outside 2..8.
    """
    _check_bits(bits, lowest=2)
    half = 1 << (bits - 1)
    lowest = -half if signed else 0
    return lowest + symmetric, lowest + 2 * half - 1


def value_range(
    x: Tensor, granularity: Granularity = "tensor", group_size: int | None = None, dim: int = 0
) -> tuple[Tensor, Tensor]:
    """The smallest and the largest value of each tensor, channel or group, in the shapes of the module's docstring.

    Args:
        x: Any floating tensor; for "channel" and "group" with at least one dimension.
        granularity: What shares a range.
        group_size: Entries in a group; only for "group". A shorter last group counts as padded with zeros, which
            changes nothing downstream, because quantization ranges always contain zero.
        dim: The dimension of the channels; only for "channel".

    Returns:
        (minimum, maximum), float32.

    Raises:
        ValueError: "group" without a positive group_size, or an unknown granularity.
    """
    match granularity:
        case "tensor":
            minimum, maximum = x.aminmax()
        case "channel":
            others = [d for d in range(x.dim()) if d != dim % x.dim()]
            minimum, maximum = (x.amin(others, True), x.amax(others, True)) if others else (x, x)
        case "group":
            if group_size is None:
                raise ValueError("granularity 'group' needs a group_size")
            minimum, maximum = _grouped(x, group_size).aminmax(dim=-1)
        case _:
            raise ValueError(f"unknown granularity {granularity!r}: use tensor, channel or group")
    return minimum.float(), maximum.float()


def affine_parameters(
    minimum: Tensor, maximum: Tensor, bits: int, symmetric: bool, signed: bool | None = None
) -> tuple[Tensor, Tensor]:
    """Scale and zero-point that cover the ranges, each widened to contain zero, which is always reproduced exactly.

    Args:
        minimum: Smallest values, any shape.
        maximum: Largest values, same shape.
        bits: 2 to 8.
        symmetric: Give positive and negative values the same range; the zero-point is then 0 (2^(bits-1) unsigned).
        signed: Whether codes are signed; None means signed exactly when symmetric.

    Returns:
        (scale, zero_point): float32, positive, and int32, both of the shape of `minimum`. A range that holds only zero
        gets scale 1.

    Raises:
        ValueError: bits outside 2..8.
    """
    lowest, highest = quantization_range(bits, symmetric, symmetric if signed is None else signed)
    minimum, maximum = minimum.float().clamp(max=0), maximum.float().clamp(min=0)
    if symmetric:
        half_width = torch.maximum(-minimum, maximum)
    else:
        half_width = maximum / 2 - minimum / 2  # the width itself could overflow
    scale = half_width / ((highest - lowest) / 2)
    # Below the smallest normal number x / s would lose its precision or divide by zero; all such x are zero in effect.
    scale = torch.where(scale < torch.finfo(torch.float32).tiny, 1.0, scale)
    if symmetric:
        return scale, torch.full_like(scale, (lowest + highest) // 2, dtype=torch.int32)
    return scale, (lowest - minimum / scale).round().clamp(lowest, highest).to(torch.int32)


def quantize(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    bits: int,
    symmetric: bool,
    signed: bool | None = None,
    group_size: int | None = None,
) -> Tensor:
    """The codes clamp(round(x / s + z)).

    Args:
        x: Any floating tensor.
        scale, zero_point: As from `affine_parameters`; broadcastable to x, or one a group when `group_size` is given.
        bits, symmetric, signed: As given to `affine_parameters`.
        group_size: Entries of the last dimension that share parameters.

    Returns:
        The shape of x, int8 when signed and uint8 otherwise.

    Raises:
        ValueError: bits outside 2..8, or a scale that does not fit the groups.
    """
    signed = symmetric if signed is None else signed
    lowest, highest = quantization_range(bits, symmetric, signed)
    codes = _codes(x, scale, zero_point, group_size).clamp_(lowest, highest).to(torch.int8 if signed else torch.uint8)
    return _ungrouped(codes, x, group_size)


def dequantize(codes: Tensor, scale: Tensor, zero_point: Tensor, group_size: int | None = None) -> Tensor:
    """The values s (x_q - z) of codes: float32, the shape of `codes`.

    Raises:
        ValueError: A scale that does not fit the groups.
    """
    values, scale, zero_point = _aligned(codes, scale, zero_point, group_size)
    return _ungrouped((values.float() - zero_point).mul_(scale), codes, group_size)


def fake_quantize(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    bits: int,
    symmetric: bool,
    signed: bool | None = None,
    group_size: int | None = None,
) -> Tensor:
    """Quantize and dequantize, in the type of x, with the straight-through gradient (Bengio et al., 2013).

    The gradient passes unchanged where x lies inside the range and is zero where it was clamped; the parameters receive
    none. Arguments and errors are those of `quantize`.
    """
    lowest, highest = quantization_range(bits, symmetric, symmetric if signed is None else signed)
    return _FakeQuantize.apply(x, scale, zero_point, lowest, highest, group_size)


def pack(values: Tensor, bits: int) -> Tensor:
    """Store codes densely: entry i of the last dimension takes bits [i * bits, (i + 1) * bits) of a little-endian row.

    Args:
        values: [..., n], uint8, each below 2^bits.
        bits: 1 to 8.

    Returns:
        [..., ceil(n * bits / 8)], uint8; unused bits of the last byte are zero.

    Raises:
        ValueError: bits outside 1..8, values that are not uint8 or do not fit into the bits.
    """
    _check_bits(bits, lowest=1)
    if values.dtype != torch.uint8:
        raise ValueError(f"pack takes uint8 codes, not {values.dtype}; shift signed codes by 2^(bits-1) first")
    if values.numel() and int(values.max()) >= 1 << bits:
        raise ValueError(f"the code {int(values.max())} does not fit into {bits} bits")
    length = values.shape[-1]
    if 8 % bits == 0:  # whole codes in a byte
        lanes = 8 // bits
        padded = F.pad(values, (0, -length % lanes)).unflatten(-1, (-1, lanes))
        shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=values.device)
        return (padded << shifts).sum(-1, dtype=torch.uint8)
    # 8 codes fill `bits` bytes exactly; at most 56 bits, so the word stays clear of the sign.
    padded = F.pad(values, (0, -length % 8)).unflatten(-1, (-1, 8)).long()
    words = (padded << torch.arange(0, 8 * bits, bits, device=values.device)).sum(-1, keepdim=True)
    packed = (words >> torch.arange(0, 8 * bits, 8, device=values.device)).bitwise_and_(255).to(torch.uint8).flatten(-2)
    return packed[..., : -(-length * bits // 8)].contiguous()


def unpack(packed: Tensor, bits: int, length: int) -> Tensor:
    """The codes that `pack` stored.

    Args:
        packed: [..., ceil(length * bits / 8)], uint8.
        bits: 1 to 8.
        length: Entries of the last dimension before packing.

    Returns:
        [..., length], uint8.

    Raises:
        ValueError: bits outside 1..8, or a row of another size than `length` codes take.
    """
    _check_bits(bits, lowest=1)
    size = -(-length * bits // 8)
    if packed.dtype != torch.uint8 or packed.shape[-1] != size:
        raise ValueError(
            f"{length} codes of {bits} bits take {size} uint8, not {packed.shape[-1]} {packed.dtype} in a row"
        )
    if 8 % bits == 0:
        shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=packed.device)
        return (packed.unsqueeze(-1) >> shifts).bitwise_and_((1 << bits) - 1).flatten(-2)[..., :length].contiguous()
    padded = F.pad(packed, (0, -size % bits)).unflatten(-1, (-1, bits)).long()
    words = (padded << torch.arange(0, 8 * bits, 8, device=packed.device)).sum(-1, keepdim=True)
    codes = (words >> torch.arange(0, 8 * bits, bits, device=packed.device)).bitwise_and_((1 << bits) - 1)
    return codes.to(torch.uint8).flatten(-2)[..., :length].contiguous()


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor, lowest: int, highest: int, group_size: int | None
    ) -> Tensor:
        codes = _codes(x, scale, zero_point, group_size)
        if ctx.needs_input_grad[0]:
            inside = (codes >= lowest).logical_and_(codes <= highest)
            ctx.save_for_backward(_ungrouped(inside, x, group_size))
        codes = _ungrouped(codes.clamp_(lowest, highest), x, group_size)
        return dequantize(codes, scale, zero_point, group_size).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (inside,) = ctx.saved_tensors
        return grad * inside, None, None, None, None, None


def _check_bits(bits: int, lowest: int) -> None:
    if not lowest <= bits <= 8:
        raise ValueError(f"bits must be between {lowest} and 8, not {bits}")


def _codes(x: Tensor, scale: Tensor, zero_point: Tensor, group_size: int | None) -> Tensor:
    """round(x / s + z) in float32, a fresh tensor, in groups when there are any."""
    values, scale, zero_point = _aligned(x, scale, zero_point, group_size)
    return (values.float() / scale).add_(zero_point).round_()


def _aligned(x: Tensor, scale: Tensor, zero_point: Tensor, group_size: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """x as [..., G, group_size] with parameters [..., G, 1], or all three as they are."""
    if group_size is None:
        return x, scale, zero_point
    grouped = _grouped(x, group_size)
    if scale.shape != grouped.shape[:-1]:
        raise ValueError(
            f"groups of {group_size} in {list(x.shape)} need scales {list(grouped.shape[:-1])}, not {list(scale.shape)}"
        )
    return grouped, scale.unsqueeze(-1), zero_point.unsqueeze(-1)


def _grouped(x: Tensor, group_size: int) -> Tensor:
    """[..., n] -> [..., G, group_size], the last group padded with zeros; a view when there is nothing to pad."""
    if group_size < 1:
        raise ValueError(f"group_size must be at least 1, not {group_size}")
    missing = -x.shape[-1] % group_size
    return (F.pad(x, (0, missing)) if missing else x).unflatten(-1, (-1, group_size))


def _ungrouped(x: Tensor, like: Tensor, group_size: int | None) -> Tensor:
    """[..., G, group_size] -> [..., n] of `like`, without the padding."""
    return x if group_size is None else x.flatten(-2)[..., : like.shape[-1]].contiguous()
