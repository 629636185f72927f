"""The int8 layer: numbers by hand, and bounds on what rounding may do."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from posttrain.quantize.linear import Int8Linear, matrix_of


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
