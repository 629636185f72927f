"""SmoothQuant: factors by hand, the smoothed network's function, and outliers that it makes harmless."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch

from posttrain.core.errors import BadRequest
from posttrain.models import sources
from posttrain.models.language_model import LanguageModel
from posttrain.models.saving import save
from posttrain.quantize.linear import Int8Linear
from posttrain.quantize.methods.dynamic import Dynamic
from posttrain.quantize.methods.smoothquant import SmoothQuant
from posttrain.quantize.methods.static import Static
from posttrain.quantize.statistics import largest_inputs

IDS = torch.tensor([[5, 17, 40, 3, 99, 12]])
CALIBRATION = [[i % 290 + 3 for i in range(start, start + 32)] for start in range(0, 320, 20)]


def _logits(model: LanguageModel) -> torch.Tensor:
    with torch.no_grad():
        return model.network(IDS).logits


def _with_outliers(model: LanguageModel) -> LanguageModel:
    """A few channels of each norm a hundred times larger, and the weights that read them as much smaller."""
    with torch.no_grad():
        for layer in model.network.model.layers:
            layer.input_layernorm.weight[::16] *= 100
            layer.post_attention_layernorm.weight[::16] *= 100
            for name in ("q_proj", "k_proj", "v_proj"):
                getattr(layer.self_attn, name).weight[:, ::16] /= 100
            for name in ("gate_proj", "up_proj"):
                getattr(layer.mlp, name).weight[:, ::16] /= 100
    return model


def test_factors_by_hand(tiny_llama: LanguageModel) -> None:
    """Equation 4 in numpy's order for one norm: s = max|X|^0.7 / max|W|^0.3, W over query, key and value."""
    attention, norm = tiny_llama.network.model.layers[1].self_attn, tiny_llama.network.model.layers[1].input_layernorm
    before = {name: getattr(attention, name).weight.detach().clone() for name in ("q_proj", "k_proj", "v_proj")}
    names = ["model.layers.1.self_attn.q_proj", "model.layers.1.self_attn.o_proj"]
    largest = largest_inputs(tiny_llama.network, names, CALIBRATION)
    output = attention.o_proj.weight.detach().clone()
    old = norm.weight.detach().clone()
    SmoothQuant(alpha=0.7).smooth(tiny_llama, CALIBRATION)
    # The values' own factors come first: two query heads share a value head's.
    x, w = largest[names[1]].view(2, 2, 16).amax(1).flatten(), output.abs().amax(0).view(2, 2, 16).amax(1).flatten()
    inner = x**0.7 / w**0.3
    value = before["v_proj"] / inner[:, None]
    torch.testing.assert_close(
        attention.o_proj.weight.detach(), output * inner.view(2, 1, 16).expand(2, 2, 16).flatten()
    )
    weights = torch.cat([before["q_proj"], before["k_proj"], value]).abs().amax(0)
    factors = largest[names[0]] ** 0.7 / weights**0.3
    torch.testing.assert_close(norm.weight.detach(), old / factors)
    torch.testing.assert_close(attention.q_proj.weight.detach(), before["q_proj"] * factors)
    torch.testing.assert_close(attention.v_proj.weight.detach(), value * factors)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_smoothing_changes_nothing(tiny_llama: LanguageModel, alpha: float) -> None:
    before = _logits(tiny_llama)
    SmoothQuant(alpha=alpha).smooth(tiny_llama, CALIBRATION)
    after = _logits(tiny_llama)
    assert (after - before).norm() <= 1e-5 * before.norm()
    assert not torch.equal(after, before)


def test_alpha_one_makes_every_channel_alike(tiny_llama: LanguageModel) -> None:
    """With alpha 1 each channel is divided by its own maximum: all maxima are 1, as far as channels aren't shared."""
    SmoothQuant(alpha=1.0).smooth(tiny_llama, CALIBRATION)
    names = ["model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"]
    for largest in largest_inputs(tiny_llama.network, names, CALIBRATION).values():
        torch.testing.assert_close(largest, torch.ones_like(largest))


@pytest.mark.parametrize("then", [Dynamic(float_activations=None), Static(observer="min_max", noise_limit=None)])
def test_outliers_become_harmless(tiny_llama: LanguageModel, then: Dynamic | Static) -> None:
    model = _with_outliers(tiny_llama)
    before = _logits(model)
    plain, smooth = deepcopy(model), deepcopy(model)
    then.quantize(plain, CALIBRATION)
    SmoothQuant(then=then).quantize(smooth, CALIBRATION)
    errors = [float((_logits(each) - before).norm() / before.norm()) for each in (plain, smooth)]
    assert errors[1] < errors[0] / 4
    assert errors[1] < 0.05


def test_the_smoothing_is_saved(tiny_llama: LanguageModel, tmp_path: Path) -> None:
    """The norms' new weights lie in the file; the card says what the other method decided."""
    old = (
        tiny_llama.network.model.norm.weight.clone(),
        tiny_llama.network.model.layers[0].input_layernorm.weight.clone(),
    )
    SmoothQuant(then={"static": {"noise_limit": 1e-4}}).quantize(tiny_llama, CALIBRATION)
    save(tiny_llama, tmp_path / "small")
    loaded = sources.load(str(tmp_path / "small"), device="cpu")
    assert torch.equal(_logits(loaded), _logits(tiny_llama))
    assert torch.equal(loaded.network.model.norm.weight, old[0])
    assert not torch.equal(loaded.network.model.layers[0].input_layernorm.weight, old[1])
    then = tiny_llama.card["surgery"][0]["quantize"]["smoothquant"]["then"]["static"]
    assert then["noise_limit"] is None
    assert then["float_activations"]


def test_only_the_targets_are_smoothed_and_quantized(tiny_llama: LanguageModel) -> None:
    SmoothQuant(targets="mlp", then="dynamic").quantize(tiny_llama, CALIBRATION)
    quantized = [name for name, module in tiny_llama.network.named_modules() if isinstance(module, Int8Linear)]
    assert quantized
    assert all(".mlp." in name for name in quantized)
    fresh = torch.ones(64)
    assert torch.equal(tiny_llama.network.model.layers[0].input_layernorm.weight, fresh)
    assert not torch.equal(tiny_llama.network.model.layers[0].post_attention_layernorm.weight, fresh)


def test_no_texts(tiny_llama: LanguageModel) -> None:
    before = tiny_llama.fingerprint()
    for nothing in (None, [], [[]]):
        with pytest.raises(BadRequest, match="calibration texts"):
            SmoothQuant().quantize(tiny_llama, nothing)
    assert tiny_llama.fingerprint() == before
