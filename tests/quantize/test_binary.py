"""Binary weights of a network: bits on disk, settings, and honesty about a real model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from posttrain.core.errors import BadRequest, Failure
from posttrain.models.language_model import LanguageModel
from posttrain.models.saving import save
from posttrain.models.sources import load
from posttrain.quantize.methods.binary import Binary
from posttrain.quantize.sign_linear import SignLinear


@pytest.mark.parametrize("order", [1, 2])
def test_so_many_bits_are_stored(tiny_llama: LanguageModel, tmp_path: Path, order: int) -> None:
    """A bit a weight and order, and 16 bits for each 32 of them."""
    Binary(order=order, group_size=32).quantize(tiny_llama)
    layer = tiny_llama.network.model.layers[0].mlp.up_proj
    assert isinstance(layer, SignLinear)
    count = layer.in_features * layer.out_features
    assert 8 * (layer.weight.nbytes + layer.scale.nbytes) == order * count * (1 + 16 / 32)
    save(tiny_llama, tmp_path / "small")
    loaded = load(str(tmp_path / "small"), device="cpu")
    assert loaded.fingerprint() == tiny_llama.fingerprint()


@pytest.mark.parametrize("whole", [-1, None])
def test_a_whole_channel_may_be_written_in_two_ways(tiny_llama: LanguageModel, whole: int | None) -> None:
    Binary(group_size=whole).quantize(tiny_llama)
    assert tiny_llama.network.model.layers[0].mlp.down_proj.scale.shape == (1, 64, 1)


def test_a_bias_is_kept(tiny_llama: LanguageModel) -> None:
    layer = tiny_llama.network.model.layers[0].mlp.up_proj
    layer.bias = torch.nn.Parameter(torch.arange(128.0))
    Binary(targets="model.layers.0.mlp.up_proj").quantize(tiny_llama)
    bias = tiny_llama.network.model.layers[0].mlp.up_proj.bias
    assert bias.tolist() == list(range(128)) and not isinstance(bias, torch.nn.Parameter)


def test_settings_and_weights_that_make_no_sense_are_refused(tiny_llama: LanguageModel) -> None:
    with pytest.raises(BadRequest, match="a group has at least one weight"):
        Binary.parse({"group_size": 0})
    tiny_llama.network.model.layers[1].mlp.up_proj.weight.data[0, 0] = float("nan")
    with pytest.raises(Failure, match=r"layers\.1\.mlp\.up_proj has weights that are not numbers"):
        Binary().quantize(tiny_llama)
