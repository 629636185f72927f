"""Round to nearest: every width and group, plain settings, layers trained for it, and what it costs on a real model."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch

from posttrain.core.errors import Failure
from posttrain.measure.perplexity import Perplexity
from posttrain.models import sources
from posttrain.models.language_model import LanguageModel
from posttrain.models.saving import save
from posttrain.models.surgery import select
from posttrain.quantize.grid import Grid
from posttrain.quantize.grouped_linear import GroupedLinear
from posttrain.quantize.linear import matrix_of
from posttrain.quantize.methods.qat import Qat
from posttrain.quantize.methods.rtn import RoundToNearest

IDS = torch.tensor([[5, 17, 40, 3, 99, 12]])


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("options", [{"group_size": 32}, {"group_size": -1, "symmetric": True}, {"clipping": True}])
def test_layers_hold_what_the_grid_says(tiny_llama: LanguageModel, bits: int, options: dict, tmp_path: Path) -> None:
    method = RoundToNearest(bits=bits, **options)
    before = {name: matrix_of(layer).clone() for name, layer in select(tiny_llama.network, "all-linear").items()}
    method.quantize(tiny_llama)
    grid = Grid(
        bits,
        {"group_size": 64, **options}["group_size"] if options.get("group_size") != -1 else None,
        options.get("symmetric", False),
        options.get("clipping", False),
    )
    for name, matrix in before.items():
        scale, zero_point = grid.parameters(matrix)
        expected = grid.values(grid.codes(matrix, scale, zero_point), scale, zero_point)
        assert torch.equal(tiny_llama.network.get_submodule(name).effective_weight(), expected)
    save(tiny_llama, tmp_path / "small")
    assert sources.load(str(tmp_path / "small"), device="cpu").fingerprint() == tiny_llama.fingerprint()


def test_more_bits_and_smaller_groups_are_closer(tiny_llama: LanguageModel) -> None:
    with torch.no_grad():
        exact = tiny_llama.network(IDS).logits
        errors = []
        for bits, group_size in ((2, 64), (3, 64), (4, 64), (4, 16), (8, 16)):
            model = deepcopy(tiny_llama)
            RoundToNearest(bits=bits, group_size=group_size).quantize(model)
            errors.append(float((model.network(IDS).logits - exact).norm() / exact.norm()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.01


@pytest.mark.parametrize("learned_scales", [False, True])
@pytest.mark.parametrize("symmetric", [False, True])
def test_a_layer_trained_with_the_same_grid_is_rounded_to_what_it_computed(
    tiny_llama: LanguageModel, learned_scales: bool, symmetric: bool
) -> None:
    settings = {"bits": 3, "group_size": 32, "symmetric": symmetric}
    Qat(**settings, learned_scales=learned_scales).quantize(tiny_llama)
    network = tiny_llama.network
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter += 0.05 * parameter if name.endswith("step") else 0.01 * torch.randn_like(parameter)
        trained = network(IDS).logits
        expected = {name: layer.effective_weight() for name, layer in select(network, "all-linear").items()}
        RoundToNearest(**settings).quantize(tiny_llama)
        for name, matrix in expected.items():
            assert isinstance(network.get_submodule(name), GroupedLinear)
            rounded = network.get_submodule(name).effective_weight()
            # What is trained with learned scales passes through more float32 operations, each rounding a little.
            torch.testing.assert_close(rounded, matrix, rtol=1e-5 if learned_scales else 0, atol=0)
        torch.testing.assert_close(network(IDS).logits, trained, rtol=1e-4, atol=1e-5)


def test_on_another_grid_learned_scales_are_not_used(tiny_llama: LanguageModel) -> None:
    plain = deepcopy(tiny_llama)
    Qat(bits=3, group_size=32, learned_scales=True).quantize(tiny_llama)
    for model in (plain, tiny_llama):
        RoundToNearest(bits=4, group_size=32).quantize(model)
    for name, layer in select(plain.network, "all-linear").items():
        assert torch.equal(layer.effective_weight(), tiny_llama.network.get_submodule(name).effective_weight())


@pytest.mark.parametrize("value", [float("nan"), 1e7])
def test_weights_without_a_scale_are_named(tiny_llama: LanguageModel, value: float) -> None:
    with torch.no_grad():
        tiny_llama.network.model.layers[1].mlp.up_proj.weight[3, 3] = value
    with pytest.raises(Failure, match=r"model\.layers\.1\.mlp\.up_proj has weights that are not numbers, or too large"):
        RoundToNearest().quantize(tiny_llama)


@pytest.mark.real_model
def test_smollm2_at_8_bits(smollm2: LanguageModel, tmp_path: Path) -> None:
    """8 bits in groups of 64 lose little: (28 * 4 + 106 * 8.375 / 8) / (135 * 4) = 41 % of the bytes."""
    measure = Perplexity(max_tokens=256, window=256).measure
    small = LanguageModel(deepcopy(smollm2.network), smollm2.tokenizer, card=deepcopy(smollm2.card))
    RoundToNearest(bits=8).quantize(small)
    assert measure(small).value == pytest.approx(measure(smollm2).value, rel=0.02)
    save(small, tmp_path / "small")
    assert sum(file.stat().st_size for file in (tmp_path / "small").iterdir()) < 0.43 * smollm2.nbytes()
