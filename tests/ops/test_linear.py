"""The linear map against float64 products, its gradients, and networks that adopt it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from posttrain.ops import linear as module
from posttrain.ops.linear import adopt, linear, linear_into


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [0, 1, 2, 4, 5, 9, 16, 17, 40])
def test_equals_the_product_in_double_precision(rows: int, bias: bool) -> None:
    torch.manual_seed(0)
    weight, b, x = torch.randn(40, 24), torch.randn(40) if bias else None, torch.randn(rows, 1, 24)
    expected = x.double() @ weight.double().T + (b.double() if b is not None else 0)
    with torch.no_grad():
        y = linear(x, weight, b)
    assert y.shape == (rows, 1, 40)
    assert y.is_contiguous()
    torch.testing.assert_close(y.double(), expected, atol=1e-5, rtol=1e-5)


def test_a_product_worked_by_hand() -> None:
    # [1 2] [[1 0], [0 1], [1 1]]^T + [0 0 10] = [1 2 13]
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    for rows in (1, 8, 32):
        y = linear(torch.tensor([[1.0, 2.0]]).expand(rows, 2), weight, torch.tensor([0.0, 0.0, 10.0]))
        assert y.tolist() == [[1.0, 2.0, 13.0]] * rows


@pytest.mark.parametrize("rows", [3, 20])
def test_gradients_equal_those_of_the_ordinary_map(rows: int) -> None:
    torch.manual_seed(1)
    shapes = [(rows, 2, 6), (7, 6), (7,)]
    ours = [torch.randn(shape).requires_grad_() for shape in shapes]
    theirs = [leaf.detach().double().requires_grad_() for leaf in ours]
    linear(*ours).square().sum().backward()
    nn.functional.linear(*theirs).square().sum().backward()
    for mine, other in zip(ours, theirs):
        assert mine.grad is not None and other.grad is not None
        torch.testing.assert_close(mine.grad.double(), other.grad, rtol=1e-4, atol=1e-4)


def test_only_what_needs_a_gradient_gets_one_and_second_gradients_are_right() -> None:
    weight, x = torch.randn(3, 2), torch.randn(20, 2, requires_grad=True)
    y = linear(x, weight)
    (first,) = torch.autograd.grad(y.pow(3).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    # d/dx of sum_j 3 y_j^2 W_j, summed over inputs: 6 y_j W_j (sum_i W_ji)
    expected = (6 * y.detach() * weight.sum(1)) @ weight
    torch.testing.assert_close(second, expected, rtol=1e-4, atol=1e-4)
    assert weight.grad is None


@pytest.mark.parametrize("outputs", [5, module._PIECE + 3])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_into_a_buffer_with_a_scale(outputs: int, bias: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(2)
    x, weight = torch.randn(3, 4, dtype=dtype), torch.randn(outputs, 4, dtype=dtype)
    b = torch.randn(outputs, dtype=dtype) if bias else None
    out = torch.full((3, outputs), torch.nan, dtype=dtype)
    linear_into(out, x, weight, b, 0.5)
    expected = 0.5 * (x.double() @ weight.double().T + (b.double() if b is not None else 0))
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)


def test_other_types_and_autocast_go_the_ordinary_way() -> None:
    x, weight = torch.randn(20, 4), torch.randn(3, 4)
    assert linear(x.double(), weight.double()).dtype == torch.float64
    assert linear(x.bfloat16(), weight.bfloat16()).dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight).dtype == torch.bfloat16
    with pytest.raises(RuntimeError, match="same dtype"):
        linear(x, weight.double())
    with pytest.raises(RuntimeError, match="shapes"):
        linear(torch.randn(20, 5), weight)


def test_a_network_adopts_it_for_plain_layers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Own(nn.Linear):
        pass

    network = nn.ModuleDict({"plain": nn.Linear(4, 4), "own": Own(4, 4), "wrapped": nn.Linear(4, 4)})

    def wrapper(x: torch.Tensor) -> torch.Tensor:
        return x

    network["wrapped"].forward = wrapper
    adopt(network)
    assert "forward" not in vars(network["own"])
    assert network["wrapped"].forward is wrapper
    calls = []
    monkeypatch.setattr(module, "linear", lambda x, weight, bias: calls.append(weight) or x)
    network["plain"](torch.randn(1, 4))
    assert len(calls) == 1
    assert calls[0] is network["plain"].weight


def test_a_copy_computes_with_its_own_weights_and_hooks_still_run() -> None:
    layer = nn.Linear(4, 4, bias=False)
    adopt(layer)
    other = copy.deepcopy(layer)
    with torch.no_grad():
        other.weight.zero_()
    other.register_forward_hook(lambda module, inputs, output: output + 1)
    x = torch.randn(20, 4)
    torch.testing.assert_close(layer(x), x @ layer.weight.T)
    assert other(x).eq(1).all()
