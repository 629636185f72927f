"""Layers of signs: the scales by hand, their least squared error, and products against float64.

Hand-worked: of [1, -2, 3, 0] the mean absolute value is 1.5, the signs + - + +, and what is left -0.5, -0.5, 1.5, -1.5
with mean 1 and signs - - + -; so order 1 gives 1.5, -1.5, 1.5, 1.5 and order 2 gives 0.5, -2.5, 2.5, 0.5.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from posttrain.ops import kernels
from posttrain.quantize.sign_linear import SignLinear, binarize, empty_signs

ROW = [1.0, -2.0, 3.0, 0.0]


def layer(matrix: Tensor, group_size: int | None, order: int, bias: bool = False) -> SignLinear:
    outputs, inputs = matrix.shape
    made = empty_signs(nn.Linear(inputs, outputs, bias=bias), group_size, order)
    made.fill(*binarize(matrix, group_size, order))
    if made.bias is not None:
        made.bias.copy_(torch.arange(outputs))
    return made


def random(outputs: int, inputs: int) -> Tensor:
    return torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(inputs))


@pytest.mark.parametrize(("order", "expected"), [(1, [1.5, -1.5, 1.5, 1.5]), (2, [0.5, -2.5, 2.5, 0.5])])
def test_by_hand(order: int, expected: list[float]) -> None:
    made = layer(torch.tensor([ROW]), None, order)
    assert made.effective_weight().tolist() == [expected]
    # 1, 1 and 3 and 4 set of four bits: 0b1101, then 0b0100.
    assert made.weight[:, 0].tolist() == [[0b1101], [0b0100]][:order]
    assert made.scale[:, 0].tolist() == [[3.0], [2.0]][:order]  # the distance of the two values, twice the mean


def test_groups_have_scales_of_their_own_and_the_last_may_be_shorter() -> None:
    """Groups [1, -2], [3, 0], [5]: means 1.5, 1.5, 5; without padding counted in."""
    made = layer(torch.tensor([[*ROW, 5.0]]), 2, 1)
    assert made.effective_weight().tolist() == [[1.5, -1.5, 1.5, 1.5, 5.0]]


def test_a_group_of_zeros_stays_zero() -> None:
    assert layer(torch.zeros(2, 8), 4, 2).effective_weight().tolist() == torch.zeros(2, 8).tolist()


def test_no_other_scale_is_closer() -> None:
    """Equation 6: the mean is where the squared error is least; any other scale and any other signs are worse."""
    matrix = random(1, 32)
    best = float((layer(matrix, None, 1).effective_weight() - matrix).square().sum())
    mean = matrix.abs().mean()
    for scale in (0.9, 0.99, 1.01, 1.1):
        assert float((scale * mean * matrix.sign() - matrix).square().sum()) > best
    turned = matrix.sign()
    turned[0, int(matrix.abs().argmin())] *= -1
    assert float((mean * turned - matrix).square().sum()) > best


def test_each_order_leaves_less() -> None:
    matrix = random(16, 96)
    errors = [
        float((layer(matrix, 32, order).effective_weight() - matrix).norm() / matrix.norm()) for order in (1, 2, 3)
    ]
    assert errors == sorted(errors, reverse=True)
    # Of a normal distribution the signs leave 1 - 2/pi of the variance.
    assert errors[0] == pytest.approx((1 - 2 / torch.pi) ** 0.5, abs=0.03)


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize(("inputs", "outputs", "group_size"), [(64, 9, 32), (100, 5, 8), (37, 3, None), (20, 4, 6)])
@pytest.mark.parametrize("order", [1, 2])
def test_equals_a_float64_product(
    native: bool, inputs: int, outputs: int, group_size: int | None, order: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if native and not kernels.available():
        pytest.skip("the native kernels are not built here")
    if not native:
        monkeypatch.setattr(kernels, "native_library", lambda: None)
    made = layer(random(outputs, inputs), group_size, order, bias=True)
    for rows in (1, 3, 40):
        x = torch.randn(rows, inputs, generator=torch.Generator().manual_seed(rows))
        exact = x.double() @ made.effective_weight().double().T + made.bias.double()
        torch.testing.assert_close(made(x).double(), exact, rtol=1e-5, atol=1e-4)


def test_the_gradient_reaches_the_activations() -> None:
    made = layer(random(8, 64), 32, 2)
    x = torch.randn(3, 64, requires_grad=True, generator=torch.Generator().manual_seed(1))
    made(x).sum().backward()
    torch.testing.assert_close(x.grad, made.effective_weight().sum(0).expand(3, -1), rtol=1e-4, atol=1e-4)
