"""What weight-only methods share: their settings, and the empty layers they are loaded into."""

from __future__ import annotations

import pytest

from posttrain.core import catalog
from posttrain.core.errors import BadRequest
from posttrain.models.language_model import LanguageModel
from posttrain.quantize.grid import Grid
from posttrain.quantize.grouped_linear import GroupedLinear
from posttrain.quantize.weight_only import WeightOnly


def _methods() -> list[type[WeightOnly]]:
    found = [catalog.find("quantize", term) for term in catalog.terms("quantize")]
    return [each for each in found if issubclass(each, WeightOnly)]


def test_there_are_some() -> None:
    assert len(_methods()) >= 2


@pytest.mark.parametrize("method", _methods())
@pytest.mark.parametrize("group_size", [-1, None])
def test_a_whole_channel_may_be_written_in_two_ways(method: type[WeightOnly], group_size: int | None) -> None:
    assert method.parse({"group_size": group_size}).grid == Grid(4, None, symmetric=False)


@pytest.mark.parametrize("method", _methods())
@pytest.mark.parametrize("settings", [{"group_size": 0}, {"group_size": -2}, {"bits": 1}, {"bits": 9}])
def test_impossible_settings_are_refused(method: type[WeightOnly], settings: dict) -> None:
    with pytest.raises(BadRequest, match="doesn't fit"):
        method.parse(settings)


@pytest.mark.parametrize("method", [method for method in _methods() if method.final])
def test_empty_layers_have_the_settings_grid(method: type[WeightOnly], tiny_llama: LanguageModel) -> None:
    method(bits=3, group_size=16, symmetric=True, targets="mlp").prepare(tiny_llama.network)
    layers = [module for module in tiny_llama.network.modules() if isinstance(module, GroupedLinear)]
    assert len(layers) == 2 * 3
    assert all(layer.grid == Grid(3, 16, symmetric=True) for layer in layers)
    assert all(layer.zero_point is None for layer in layers)
