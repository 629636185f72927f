"""The layer that rounds while it trains: values and gradients by hand, and what its grid makes of them."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from posttrain.quantize.fake_linear import FakeQuantizedLinear
from posttrain.quantize.grid import Grid

SYMMETRIC = Grid(bits=3, group_size=2, symmetric=True)


def _layer(weight: list[list[float]], grid: Grid = SYMMETRIC, **more: object) -> FakeQuantizedLinear:
    linear = nn.Linear(len(weight[0]), len(weight), bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor(weight))
    return FakeQuantizedLinear(linear, grid, more.get("activation_bits"), bool(more.get("learned_scales")))  # type: ignore[arg-type]


def test_weights_by_hand() -> None:
    """Three bits, symmetric: codes -3 … 3. Groups (3, 0.6) and (-0.75, 0.3): steps 1 and 0.25."""
    layer = _layer([[3.0, 0.6, -0.75, 0.3]])
    assert layer.effective_weight().tolist() == [[3.0, 1.0, -0.75, 0.25]]
    assert layer(torch.tensor([[1.0, 2.0, 4.0, 0.0]])).tolist() == [[3.0 + 2.0 - 3.0]]


def test_the_gradient_is_that_of_the_unrounded_layer() -> None:
    """No weight lies outside its own range, so all get x as their gradient; x gets the rounded weights."""
    layer = _layer([[3.0, 0.6, -0.75, 0.3]])
    x = torch.tensor([[1.0, 2.0, 4.0, 5.0]], requires_grad=True)
    layer(x).sum().backward()
    assert layer.weight.grad.tolist() == x.tolist()
    assert x.grad.tolist() == [[3.0, 1.0, -0.75, 0.25]]


def test_parameters_are_shared_with_the_layer_it_replaces() -> None:
    linear = nn.Linear(4, 3)
    layer = FakeQuantizedLinear(linear, SYMMETRIC, None, False)
    assert layer.weight is linear.weight
    assert layer.bias is linear.bias
    assert isinstance(layer, nn.Linear)
    assert set(layer.state_dict()) == {"weight", "bias"}


def test_a_conv1d_is_turned_round() -> None:
    conv = Conv1D(5, 4)
    layer = FakeQuantizedLinear(conv, Grid(8, None, False), None, False)
    x = torch.randn(2, 4)
    torch.testing.assert_close(layer(x), conv(x), atol=1e-3, rtol=0.1)
    assert layer.weight.shape == (5, 4)


def test_an_update_is_added_before_rounding() -> None:
    """0.6 + 0.95 = 1.55 is rounded to 2 at step 1; afterwards it would be 1 + 0.95."""
    layer = _layer([[3.0, 0.6, -0.75, 0.3]])
    update = torch.tensor([[0.0, 0.95, 0.0, 0.0]], requires_grad=True)
    y = layer.with_update(torch.tensor([[0.0, 1.0, 0.0, 0.0]]), update)
    assert y.tolist() == [[2.0]]
    y.sum().backward()
    assert update.grad.tolist() == [[0.0, 1.0, 0.0, 0.0]]


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("learned", [True, False])
@pytest.mark.parametrize("group_size", [None, 16, 12])  # 12 is no divisor of 40
def test_the_grid_gives_the_same_matrix(group_size: int | None, learned: bool, symmetric: bool) -> None:
    """What the layer computes with is what codes, scales and zero-points stand for, to the bit."""
    torch.manual_seed(0)
    grid = Grid(4, group_size, symmetric, clipping=learned)
    linear = nn.Linear(40, 7)
    layer = FakeQuantizedLinear(linear, grid, None, learned)
    if learned:
        with torch.no_grad():
            layer.step.mul_(1 + 0.3 * torch.rand_like(layer.step))
    scale, zero_point = layer.grid_parameters()
    codes = grid.codes(layer.weight.detach(), scale, zero_point)
    assert torch.equal(layer.effective_weight(), grid.values(codes, scale, zero_point))
    assert torch.equal(scale, scale.half().float())


def test_learned_step_gradient_by_hand() -> None:
    """Equation 3 of LSQ at step 1, codes -3 … 3: inside, round(v) - v; outside, the end of the range.

    v = (0.6, 5) gives 0.4 and 3, the outputs weigh them by 1 and 2: 6.4, damped by 1 / sqrt(2 · 3). Only 0.6 has a
    gradient of its own.
    """
    layer = _layer([[0.6, 5.0]], learned_scales=True)
    with torch.no_grad():
        layer.step.fill_(1.0)
    layer(torch.tensor([[1.0, 2.0]])).sum().backward()
    torch.testing.assert_close(layer.step.grad, torch.tensor([[6.4 / 6**0.5]]))
    assert layer.weight.grad.tolist() == [[1.0, 0.0]]


def test_learned_steps_begin_with_the_least_error() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(64, 8)
    learned = FakeQuantizedLinear(linear, Grid(3, 32, True, clipping=True), None, True)
    plain = FakeQuantizedLinear(linear, Grid(3, 32, True), None, False)
    errors = [(layer.effective_weight() - linear.weight).square().sum() for layer in (learned, plain)]
    assert errors[0] <= errors[1]
    assert set(learned.state_dict()) == {"weight", "bias", "step", "zero_point"}


def test_activations_are_rounded_row_by_row() -> None:
    """Three bits: (3, 1.4) has step 1 and becomes (3, 1), (0.3, -0.06) step 0.1 and becomes (0.3, -0.1)."""
    layer = _layer([[1.0, 0.0], [0.0, 1.0]], Grid(2, None, True), activation_bits=3)
    x = torch.tensor([[3.0, 1.4], [0.3, -0.06]], requires_grad=True)
    y = layer(x)
    torch.testing.assert_close(y, torch.tensor([[3.0, 1.0], [0.3, -0.1]]))
    y.sum().backward()
    torch.testing.assert_close(x.grad, torch.ones(2, 2))


def test_an_ordinary_module() -> None:
    layer = _layer([[3.0, 0.6, -0.75, 0.3]], learned_scales=True)
    copy = deepcopy(layer)
    x = torch.randn(3, 4)
    assert torch.equal(copy(x), layer(x))
    assert "learned_scales=True" in repr(layer)
    layer.bfloat16()
    assert layer(x.bfloat16()).dtype == torch.bfloat16
