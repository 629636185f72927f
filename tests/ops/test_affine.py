"""Affine quantization by hand, its error bound for every setting, and the packing of codes."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from posttrain.ops.affine import (
    affine_parameters,
    dequantize,
    fake_quantize,
    pack,
    quantization_range,
    quantize,
    unpack,
    value_range,
)


def sample(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_ranges() -> None:
    assert quantization_range(8, symmetric=True, signed=True) == (-127, 127)
    assert quantization_range(8, symmetric=True, signed=False) == (1, 255)
    assert quantization_range(8, symmetric=False, signed=True) == (-128, 127)
    assert quantization_range(4, symmetric=False, signed=False) == (0, 15)
    assert quantization_range(2, symmetric=True, signed=True) == (-1, 1)


@pytest.mark.parametrize("bits", [1, 9])
def test_other_bits_are_refused(bits: int) -> None:
    with pytest.raises(ValueError, match="bits"):
        quantization_range(bits, True, True)


def test_symmetric_by_hand() -> None:
    """4 bits on [-3.5, 2]: s = 3.5 / 7 = 0.5, z = 0; 1.2 / 0.5 = 2.4 -> 2 -> 1.0; 9 is clamped to 7 -> 3.5."""
    scale, zero_point = affine_parameters(torch.tensor(-3.5), torch.tensor(2.0), 4, symmetric=True)
    assert (scale.item(), zero_point.item()) == (0.5, 0)
    x = torch.tensor([-3.5, 1.2, 0.0, 9.0])
    codes = quantize(x, scale, zero_point, 4, symmetric=True)
    assert codes.dtype == torch.int8
    assert codes.tolist() == [-7, 2, 0, 7]
    assert dequantize(codes, scale, zero_point).tolist() == [-3.5, 1.0, 0.0, 3.5]


def test_symmetric_unsigned_by_hand() -> None:
    """The same grid moved by 8."""
    scale, zero_point = affine_parameters(torch.tensor(-3.5), torch.tensor(2.0), 4, symmetric=True, signed=False)
    assert (scale.item(), zero_point.item()) == (0.5, 8)
    codes = quantize(torch.tensor([-3.5, 1.2, 0.0, 9.0]), scale, zero_point, 4, symmetric=True, signed=False)
    assert codes.dtype == torch.uint8
    assert codes.tolist() == [1, 10, 8, 15]
    assert dequantize(codes, scale, zero_point).tolist() == [-3.5, 1.0, 0.0, 3.5]


@pytest.mark.parametrize(("signed", "zero", "codes"), [(None, 5, [0, 5, 7, 15]), (True, -3, [-8, -3, -1, 7])])
def test_asymmetric_by_hand(signed: bool | None, zero: int, codes: list[int]) -> None:
    """4 bits on [-1.25, 2.5]: s = 3.75 / 15 = 0.25, z = 1.25 / 0.25 = 5 (signed: -8 + 5); 0.6 / 0.25 = 2.4 -> 2."""
    scale, zero_point = affine_parameters(torch.tensor(-1.25), torch.tensor(2.5), 4, symmetric=False, signed=signed)
    assert (scale.item(), zero_point.item()) == (0.25, zero)
    result = quantize(torch.tensor([-1.25, 0.0, 0.6, 2.5]), scale, zero_point, 4, symmetric=False, signed=signed)
    assert result.tolist() == codes
    assert dequantize(result, scale, zero_point).tolist() == [-1.25, 0.0, 0.5, 2.5]


def test_value_range_of_each_granularity_by_hand() -> None:
    x = torch.tensor([[1.0, -2.0, 3.0], [4.0, 5.0, 6.0]])
    assert [t.tolist() for t in value_range(x)] == [-2.0, 6.0]
    assert [t.tolist() for t in value_range(x, "channel")] == [[[-2.0], [4.0]], [[3.0], [6.0]]]
    assert [t.tolist() for t in value_range(x, "channel", dim=-1)] == [[[1.0, -2.0, 3.0]], [[4.0, 5.0, 6.0]]]
    # groups of 2: (1, -2) (3, padding); (4, 5) (6, padding)
    assert [t.tolist() for t in value_range(x, "group", 2)] == [[[-2.0, 0.0], [4.0, 0.0]], [[1.0, 3.0], [5.0, 6.0]]]
    assert [t.tolist() for t in value_range(x[0], "channel")] == [[1.0, -2.0, 3.0], [1.0, -2.0, 3.0]]


GRANULARITIES = [("tensor", None), ("channel", None), ("group", 8), ("group", 5), ("group", 100)]


@pytest.mark.parametrize(("granularity", "group_size"), GRANULARITIES)
@pytest.mark.parametrize(("symmetric", "signed"), itertools.product([True, False], repeat=2))
@pytest.mark.parametrize("bits", range(2, 9))
def test_error_is_at_most_half_a_step(
    bits: int, symmetric: bool, signed: bool, granularity: str, group_size: int | None
) -> None:
    """For every setting, on rows of different spread and offset; 24 columns make groups of 5 and 100 ragged."""
    x = sample(6, 24) * torch.logspace(-3, 2, 6)[:, None] + torch.tensor([0.0, 1.0, -1.0, 50.0, -50.0, 0.0])[:, None]
    minimum, maximum = value_range(x, granularity, group_size)
    scale, zero_point = affine_parameters(minimum, maximum, bits, symmetric, signed)
    codes = quantize(x, scale, zero_point, bits, symmetric, signed, group_size)
    lowest, highest = quantization_range(bits, symmetric, signed)
    assert codes.shape == x.shape
    assert lowest <= int(codes.min()) <= int(codes.max()) <= highest
    restored = dequantize(codes, scale, zero_point, group_size)
    steps = scale if group_size is None else scale.repeat_interleave(group_size, -1)[:, :24]
    assert ((x - restored).abs() <= steps * (0.5 + 1e-4)).all()
    assert torch.equal(fake_quantize(x, scale, zero_point, bits, symmetric, signed, group_size), restored)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("value", [0.0, 3.7, -3.7, 1e-42, 3e38])
def test_constant_input(value: float, symmetric: bool) -> None:
    """Zero is exact; any other constant is the end of its range and comes back to within rounding; nothing is NaN."""
    x = torch.full((2, 4), value)
    scale, zero_point = affine_parameters(*value_range(x, "channel"), 4, symmetric)
    restored = dequantize(quantize(x, scale, zero_point, 4, symmetric), scale, zero_point)
    assert (scale > 0).all()
    torch.testing.assert_close(restored, x, rtol=1e-6, atol=1e-38)


@pytest.mark.parametrize("symmetric", [True, False])
def test_zero_is_always_exact(symmetric: bool) -> None:
    scale, zero_point = affine_parameters(torch.tensor(0.3), torch.tensor(0.9), 3, symmetric)
    zero = torch.zeros(1)
    assert dequantize(quantize(zero, scale, zero_point, 3, symmetric), scale, zero_point).item() == 0


def test_against_torch_fake_quantize() -> None:
    x = sample(5, 16)
    scale, zero_point = affine_parameters(*value_range(x, "channel"), 8, symmetric=False)
    expected = torch.fake_quantize_per_channel_affine(x, scale.flatten(), zero_point.flatten(), 0, 0, 255)
    torch.testing.assert_close(fake_quantize(x, scale, zero_point, 8, symmetric=False), expected)


@pytest.mark.parametrize("group_size", [None, 2, 3])
def test_straight_through_gradient(group_size: int | None) -> None:
    """s = 0.5, 3 bits symmetric: codes -3..3, so |x| < 1.75 passes and the rest is clamped without gradient."""
    x = torch.tensor([-1.8, -1.7, 0.2, 0.0, 1.7, 1.8], requires_grad=True)
    groups = 1 if group_size is None else 6 // group_size
    scale = torch.full((groups,), 0.5, requires_grad=True)
    result = fake_quantize(x, scale, torch.zeros(groups, dtype=torch.int32), 3, symmetric=True, group_size=group_size)
    result.backward(torch.arange(1.0, 7.0))
    assert result.tolist() == [-1.5, -1.5, 0.0, 0.0, 1.5, 1.5]
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 2.0, 3.0, 4.0, 5.0, 0.0]
    assert scale.grad is None


def test_fake_quantize_keeps_the_type() -> None:
    x = sample(2, 4).bfloat16().requires_grad_()
    result = fake_quantize(x, torch.tensor(0.1), torch.tensor(0), 8, symmetric=True)
    result.sum().backward()
    assert result.dtype == torch.bfloat16
    assert x.grad is not None
    assert x.grad.dtype == torch.bfloat16


def test_group_refusals() -> None:
    x = sample(2, 6)
    with pytest.raises(ValueError, match="group_size"):
        value_range(x, "group")
    with pytest.raises(ValueError, match="at least 1"):
        value_range(x, "group", 0)
    with pytest.raises(ValueError, match="unknown granularity"):
        value_range(x, "row")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="need scales"):
        quantize(x, torch.ones(2, 2), torch.zeros(2, 2), 4, symmetric=True, group_size=2)


def test_packing_by_hand() -> None:
    """4 bits: 1 | 2 << 4 = 33, then 3 alone. 2 bits: 1 | 2 << 2 | 3 << 4 = 57. 3 bits: 5 | 6 << 3 | 7 << 6 = 501."""
    assert pack(torch.tensor([1, 2, 3], dtype=torch.uint8), 4).tolist() == [33, 3]
    assert pack(torch.tensor([1, 2, 3, 0], dtype=torch.uint8), 2).tolist() == [57]
    assert pack(torch.tensor([5, 6, 7], dtype=torch.uint8), 3).tolist() == [501 & 255, 501 >> 8]
    assert pack(torch.tensor([5, 255], dtype=torch.uint8), 8).tolist() == [5, 255]


@pytest.mark.parametrize("length", [1, 7, 8, 9, 16, 33])
@pytest.mark.parametrize("bits", range(1, 9))
def test_packing_round_trip(bits: int, length: int) -> None:
    values = torch.randint(1 << bits, (3, 2, length), generator=torch.Generator().manual_seed(bits)).to(torch.uint8)
    packed = pack(values, bits)
    assert packed.dtype == torch.uint8
    assert packed.shape == (3, 2, -(-length * bits // 8))
    assert torch.equal(unpack(packed, bits, length), values)
    # The layout: the row is one little-endian number whose digits in base 2^bits are the codes.
    number = int.from_bytes(bytes(packed[0, 0].tolist()), "little")
    assert [number >> bits * i & (1 << bits) - 1 for i in range(length)] == values[0, 0].tolist()


def test_packing_refusals() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        pack(torch.tensor([8], dtype=torch.uint8), 3)
    with pytest.raises(ValueError, match="uint8"):
        pack(torch.tensor([1], dtype=torch.int8), 3)
    with pytest.raises(ValueError, match="bits"):
        pack(torch.tensor([1], dtype=torch.uint8), 9)
    with pytest.raises(ValueError, match="take 3 uint8"):
        unpack(torch.zeros(2, dtype=torch.uint8), 3, 8)
