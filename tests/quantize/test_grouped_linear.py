"""The layer of few bits: by hand, its size, its order of inputs, and that it is an ordinary module."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from posttrain.core.errors import Failure
from posttrain.quantize.grid import Grid
from posttrain.quantize.grouped_linear import GroupedLinear, empty_grouped, grouped

CODES = torch.tensor([[15, 8, 3], [0, 7, 9]], dtype=torch.uint8)
SCALE = torch.tensor([[0.5, 2], [1, 0.25]])
ZERO_POINT = torch.tensor([[8, 1], [0, 9]], dtype=torch.int32)


def _layer(symmetric: bool = False, order: Tensor | None = None) -> GroupedLinear:
    layer = GroupedLinear(3, 2, bias=True, grid=Grid(4, 2, symmetric), ordered=order is not None)
    layer.fill(CODES, SCALE, ZERO_POINT, order)
    layer.bias.copy_(torch.tensor([0.5, 0.0]))
    return layer


def test_by_hand() -> None:
    """s (q - z): 0.5 * 7, 0, 2 * 2 and 0, 7, 0; symmetric with z = 8 everywhere."""
    assert _layer().effective_weight().tolist() == [[3.5, 0, 4], [0, 7, 0]]
    assert _layer(symmetric=True).effective_weight().tolist() == [[3.5, 0, -10], [-8, -1, 0.25]]
    assert _layer()(torch.tensor([[2.0, 1.0, -1.0]])).tolist() == [[3.5, 7]]


def test_columns_in_an_order_of_their_own() -> None:
    """Column 0 belongs to input 2, column 1 to input 0, column 2 to input 1."""
    layer = _layer(order=torch.tensor([2, 0, 1]))
    assert layer.effective_weight().tolist() == [[0, 4, 3.5], [7, 0, 0]]
    x = torch.tensor([[2.0, 1.0, -1.0]], requires_grad=True)
    y = layer(x)
    assert y.tolist() == [[4 - 3.5 + 0.5, 14]]
    (y @ torch.tensor([1.0, 10.0])).sum().backward()
    assert x.grad.tolist() == [[70, 4, 3.5]]


@pytest.mark.parametrize(
    ("bits", "group_size", "symmetric"), [(4, 64, False), (4, 32, True), (3, None, True), (2, 16, False)]
)
def test_bytes_are_those_of_the_bits(bits: int, group_size: int | None, symmetric: bool) -> None:
    """576 inputs, 10 outputs: codes of b bits, two bytes a group, and b bits a group for its zero-point."""
    layer = GroupedLinear(576, 10, bias=False, grid=Grid(bits, group_size, symmetric))
    groups = 576 // (group_size or 576)
    expected = 10 * (576 * bits // 8 + 2 * groups + (0 if symmetric else -(-groups * bits // 8)))
    assert sum(tensor.nbytes for tensor in layer.state_dict().values()) == expected
    assert not list(layer.parameters())


def test_an_ordinary_module() -> None:
    layer = _layer(order=torch.tensor([2, 0, 1]))
    assert {name: tensor.dtype for name, tensor in layer.state_dict().items()} == {
        "weight": torch.uint8,
        "scale": torch.float16,
        "zero_point": torch.uint8,
        "order": torch.int32,
        "bias": torch.float32,
    }
    other = GroupedLinear(3, 2, bias=True, grid=Grid(4, 2, False), ordered=True)
    other.load_state_dict(layer.state_dict())
    x = torch.randn(4, 3)
    assert torch.equal(other(x), layer(x))
    assert torch.equal(deepcopy(layer)(x), layer(x))
    assert repr(layer) == "GroupedLinear(3, 2, bias=True, bits=4, group_size=2, symmetric=False, ordered=True)"


def test_in_the_place_of_both_kinds_of_layer() -> None:
    grid = Grid(4, 2, symmetric=False)
    for old in (nn.Linear(3, 2), Conv1D(2, 3), nn.Linear(3, 2, bias=False)):
        new = grouped("x", old, grid, CODES, SCALE, ZERO_POINT)
        assert new.effective_weight().tolist() == [[3.5, 0, 4], [0, 7, 0]]
        assert (new.bias is None) if old.bias is None else torch.equal(new.bias, old.bias)
        assert {n: t.shape for n, t in empty_grouped(old, grid).state_dict().items()} == {
            n: t.shape for n, t in new.state_dict().items()
        }


def test_weights_without_a_scale_are_named() -> None:
    with pytest.raises(Failure, match="up_proj has weights that are not numbers, or too large"):
        grouped("up_proj", nn.Linear(3, 2), Grid(4, 2, False), CODES, SCALE * torch.inf, ZERO_POINT)


def test_half_precision_comes_out_as_it_went_in() -> None:
    assert _layer()(torch.tensor([[2.0, 1.0, -1.0]], dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert _layer().bfloat16()(torch.tensor([[2.0, 1.0, -1.0]])).tolist() == [[3.5, 7]]
