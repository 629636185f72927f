"""Layers in half precision: whichever way the product is computed, against float64.

Hand-worked: bfloat16 keeps 8 significant bits, so 1 + 2^-8 lies halfway between 1 and 1 + 2^-7 and is rounded to the
even one, 1, and 1 + 3 * 2^-8 to 1 + 2^-6; float16 keeps 11 and both exactly.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from posttrain.quantize import half_linear
from posttrain.quantize.half_linear import HalfLinear, empty_half


@pytest.fixture(params=[True, False], ids=["native bfloat16", "no bfloat16"])
def multiplies(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whether the processor is said to multiply bfloat16; torch computes with it either way."""
    monkeypatch.setattr(half_linear, "_multiplies_bfloat16", lambda: request.param)
    monkeypatch.setattr(half_linear, "_STRIP", 100)  # several strips, the last one shorter
    yield


def layer(dtype: torch.dtype, inputs: int = 24, outputs: int = 9, bias: bool = True) -> HalfLinear:
    generator = torch.Generator().manual_seed(0)
    made = empty_half(nn.Linear(inputs, outputs, bias=bias), dtype)
    made.weight.copy_(torch.randn(outputs, inputs, generator=generator))
    if made.bias is not None:
        made.bias.copy_(torch.randn(outputs, generator=generator))
    return made


def test_rounding_by_hand() -> None:
    numbers = torch.tensor([[1 + 2**-8, 1 + 3 * 2**-8]])
    for dtype, expected in ((torch.bfloat16, [[1.0, 1 + 2**-6]]), (torch.float16, numbers.tolist())):
        made = HalfLinear(2, 1, False, dtype)
        made.weight.copy_(numbers)
        assert made.effective_weight().tolist() == expected
        assert made.weight.nbytes == 4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(24,), (1, 24), (5, 24), (2, 3, 24), (0, 24)])
def test_equals_a_float64_product(multiplies: None, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """Within the rounding of activations and results to the layer's type, where it computes in that."""
    made = layer(dtype)
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(1))
    y = made(x)
    assert y.dtype == torch.float32 and y.shape == (*shape[:-1], 9)
    exact = x.double() @ made.effective_weight().double().T + made.bias.double()
    size = x.double().abs() @ made.effective_weight().double().abs().T
    assert ((y.double() - exact).abs() <= 3 * torch.finfo(dtype).eps * size + 1e-6).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_gradient_reaches_the_activations(multiplies: None, dtype: torch.dtype) -> None:
    made = layer(dtype)
    x = torch.randn(3, 24, requires_grad=True, generator=torch.Generator().manual_seed(1))
    weights = torch.randn(3, 9, generator=torch.Generator().manual_seed(2))
    (made(x) * weights).sum().backward()
    torch.testing.assert_close(x.grad, weights @ made.effective_weight(), rtol=1e-5, atol=1e-5)


def test_activations_that_float16_lacks_are_not_lost() -> None:
    """A single row is multiplied in float16, unless a number of it is beyond 65,504."""
    made = HalfLinear(2, 1, False, torch.float16)
    made.weight.copy_(torch.tensor([[0.5, 1.0]]))
    assert made(torch.tensor([[1e5, 1.0]])).item() == 50001.0
    assert made(torch.tensor([[float("nan"), 1.0]])).isnan().all()


def test_activations_in_the_same_type_stay_in_it() -> None:
    made = layer(torch.bfloat16)
    assert made(torch.ones(2, 24, dtype=torch.bfloat16)).dtype == torch.bfloat16
