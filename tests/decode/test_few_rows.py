"""Linear layers over few rows give the same numbers, and are put back."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from posttrain.decode.few_rows import few_rows


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [0, 1, 2, 3, 9, 10, 15, 16, 17, 40])
def test_equals_the_ordinary_product(rows: int, bias: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(24, 40, bias=bias)
    x = torch.randn(rows, 1, 24)
    expected = x.double() @ layer.weight.double().T + (layer.bias.double() if bias else 0)
    with few_rows(layer), torch.no_grad():
        output = layer(x)
    assert output.shape == (rows, 1, 40)
    assert output.is_contiguous()
    torch.testing.assert_close(output.double(), expected, atol=1e-5, rtol=1e-5)


def test_only_plain_float32_layers_change_and_all_are_put_back() -> None:
    class Own(nn.Linear):
        pass

    network = nn.ModuleDict(
        {"plain": nn.Linear(4, 4), "narrow": nn.Linear(4, 4).bfloat16(), "own": Own(4, 4), "wrapped": nn.Linear(4, 4)}
    )

    def wrapper(x: torch.Tensor) -> torch.Tensor:
        return x

    network["wrapped"].forward = wrapper
    with pytest.raises(RuntimeError, match="inside"), few_rows(network):
        assert "forward" in vars(network["plain"])
        assert "forward" not in vars(network["narrow"])
        assert "forward" not in vars(network["own"])
        raise RuntimeError("inside")
    assert "forward" not in vars(network["plain"])
    assert network["wrapped"].forward is wrapper


def test_hooks_still_run() -> None:
    layer = nn.Linear(4, 4)
    layer.register_forward_hook(lambda module, inputs, output: output + 1)
    x = torch.randn(1, 4)
    with torch.no_grad():
        expected = layer(x)
        with few_rows(layer):
            torch.testing.assert_close(layer(x), expected)
