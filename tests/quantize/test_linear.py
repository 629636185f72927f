"""The int8 layer: numbers by hand, and bounds on what rounding may do."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from posttrain.quantize.linear import Int8Linear, empty_int8, fill_int8, matrix_of


def _layer(dynamic: bool) -> Int8Linear:
    """Rows (127, -64) at 0.01 and (0, 2) at 0.5, biases 1 and -1: the matrix is ((1.27, -0.64), (0, 1))."""
    layer = Int8Linear(2, 2, bias=True, dynamic=dynamic)
    layer.weight.copy_(torch.tensor([[127, -64], [0, 2]]))
    layer.scale.copy_(torch.tensor([0.01, 0.5]))
    layer.bias.copy_(torch.tensor([1.0, -1.0]))
    return layer


def test_matrix_by_hand() -> None:
    torch.testing.assert_close(_layer(True).effective_weight(), torch.tensor([[1.27, -0.64], [0.0, 1.0]]))


def test_floating_point_activations_by_hand() -> None:
    """(2, 1): 2.54 - 0.64 + 1 = 2.9 and 1 - 1 = 0."""
    found = _layer(False)(torch.tensor([[[2.0, 1.0]]]))
    torch.testing.assert_close(found, torch.tensor([[[2.9, 0.0]]]))


def test_integer_activations_by_hand() -> None:
    """(2, 1) has scale 2/127 and becomes (127, 64), since 63.5 is rounded to the even 64.

    The sums are 127·127 - 64·64 = 12,033 and 128, times 2/127 and the weights' scales: 1.8950 and 1.0079, plus biases.
    """
    found = _layer(True)(torch.tensor([2.0, 1.0]))
    torch.testing.assert_close(found, torch.tensor([12_033 * 2 / 127 * 0.01 + 1, 128 * 2 / 127 * 0.5 - 1]))


@pytest.mark.parametrize("dynamic", [True, False])
def test_rounding_activations_errs_by_half_a_step(dynamic: bool) -> None:
    """|y - xW| <= (scale of x) / 2 · sum |W| a row; without rounding only float32's own error is left."""
    generator = torch.Generator().manual_seed(0)
    layer = Int8Linear(96, 40, bias=False, dynamic=dynamic)
    layer.weight.copy_(torch.randint(-127, 128, (40, 96), generator=generator))
    layer.scale.copy_(torch.rand(40, generator=generator) + 0.01)
    x = torch.randn(7, 3, 96, generator=generator)
    error = (layer(x).double() - x.double() @ layer.effective_weight().double().T).abs()
    assert layer(x).shape == (7, 3, 40)
    step = x.abs().amax(-1, keepdim=True) / 127
    bound = step / 2 * layer.effective_weight().abs().sum(1)
    assert (error <= bound * (1 + 1e-5)).all()
    assert (error.max() > 1e-3) == dynamic


@pytest.mark.parametrize("dynamic", [True, False])
def test_gradients_reach_the_input_and_nothing_else(dynamic: bool) -> None:
    """d(y1 + 10 y2) / dx is the matrix's rows weighted: 1.27 and -0.64 + 10."""
    layer = _layer(dynamic)
    assert not list(layer.parameters())
    x = torch.tensor([[2.0, 1.0]], requires_grad=True)
    (layer(x) @ torch.tensor([1.0, 10.0])).sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor([[1.27, 9.36]]))


def test_half_precision_comes_out_as_it_went_in() -> None:
    x = torch.tensor([[2.0, 1.0]], dtype=torch.bfloat16)
    assert _layer(True)(x).dtype == torch.bfloat16


def test_an_ordinary_module() -> None:
    layer = _layer(True)
    assert {name: t.dtype for name, t in layer.state_dict().items()} == {
        "weight": torch.int8,
        "scale": torch.float32,
        "bias": torch.float32,
    }
    other = Int8Linear(2, 2, bias=True, dynamic=True)
    other.load_state_dict(layer.state_dict())
    x = torch.randn(4, 2)
    assert torch.equal(other(x), layer(x))
    assert torch.equal(deepcopy(layer)(x), layer(x))
    assert repr(layer) == "Int8Linear(2, 2, bias=True, dynamic=True)"
    assert "bias" not in Int8Linear(2, 2, bias=False, dynamic=True).state_dict()


def test_matrix_of_both_kinds_of_layer() -> None:
    linear, conv = nn.Linear(3, 5), Conv1D(5, 3)
    assert matrix_of(linear).shape == matrix_of(conv).shape == (5, 3)
    x = torch.randn(2, 3)
    torch.testing.assert_close(x @ matrix_of(conv).T + conv.bias, conv(x))
    torch.testing.assert_close(x @ matrix_of(linear).T + linear.bias, linear(x))
    assert not matrix_of(linear).requires_grad
    assert matrix_of(linear.bfloat16()).dtype == torch.float32


def test_a_symmetric_range_by_hand() -> None:
    """Range ±12.7 at step 0.1: (2, 1) is (20, 10) in steps. 20·127·0.1·0.01 - 10·64·0.1·0.01 + 1 = 2.9; 1 - 1 = 0."""
    layer = Int8Linear(2, 2, bias=True, dynamic=False, fixed_range=True)
    layer.load_state_dict({**_layer(False).state_dict(), "input_scale": torch.tensor(0.0)})
    layer.fix_range(-3.0, 12.7)
    assert layer.input_scale == pytest.approx(0.1)
    torch.testing.assert_close(layer(torch.tensor([2.0, 1.0])), torch.tensor([2.9, 0.0]))
    torch.testing.assert_close(layer(torch.tensor([99.0, 0.0])), torch.tensor([12.7 * 1.27 + 1, -1.0]))


def test_an_asymmetric_range_by_hand() -> None:
    """Range 0 … 25.4: step 0.1, code 0 for 12.7, so zero is -127 and the shift -12.7.

    The bias makes up for it: 1 + 12.7·(1.27 - 0.64) = 9.001 and -1 + 12.7·1 = 11.7.
    """
    layer = Int8Linear(2, 2, bias=True, dynamic=False, fixed_range=True, symmetric=False)
    shift = {"input_scale": torch.tensor(0.0), "input_shift": torch.tensor(0.0)}
    layer.load_state_dict({**_layer(False).state_dict(), **shift})
    layer.fix_range(0.0, 25.4)
    assert layer.input_shift == pytest.approx(-12.7)
    torch.testing.assert_close(layer.bias, torch.tensor([9.001, 11.7]))
    torch.testing.assert_close(layer.effective_bias(), torch.tensor([1.0, -1.0]))
    torch.testing.assert_close(layer(torch.tensor([2.0, 1.0])), torch.tensor([2.9, 0.0]))
    torch.testing.assert_close(layer(torch.zeros(2)), torch.tensor([1.0, -1.0]))  # zero is exact
    assert layer(torch.zeros(1, 2, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_fixed_range_errs_by_half_a_step(symmetric: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    linear = nn.Linear(96, 40, bias=False)
    layer = fill_int8(empty_int8(linear, fixed_range=True, symmetric=symmetric), "linear", linear)
    x = torch.rand(7, 96, generator=generator) * 6 - 1
    layer.fix_range(float(x.min()), float(x.max()))
    assert layer.input_scale == pytest.approx(float(x.max() if symmetric else (x.max() - x.min()) / 2) / 127)
    error = (layer(x).double() - x.double() @ layer.effective_weight().double().T).abs()
    bound = layer.input_scale / 2 * layer.effective_weight().abs().sum(1)
    assert (error <= bound * (1 + 1e-4) + 1e-5).all()


def test_the_shift_needs_a_bias_and_says_so_in_its_shape() -> None:
    linear = nn.Linear(4, 3, bias=False)
    assert empty_int8(linear, fixed_range=True).bias is None
    assert empty_int8(linear, fixed_range=True, symmetric=False).bias is not None
    assert "fixed_range=True, symmetric=False" in repr(empty_int8(linear, fixed_range=True, symmetric=False))
