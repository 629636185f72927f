"""Static int8: ranges by hand, layers that can't do with one, and what it costs on a real model."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch

from posttrain.core import catalog
from posttrain.core.errors import BadRequest
from posttrain.data import dataset
from posttrain.data.record import Text
from posttrain.measure.perplexity import Perplexity
from posttrain.models import sources
from posttrain.models.language_model import LanguageModel
from posttrain.models.saving import save
from posttrain.quantize.linear import Int8Linear
from posttrain.quantize.methods.dynamic import Dynamic
from posttrain.quantize.methods.static import Static
from posttrain.quantize.statistics import watch_inputs

IDS = torch.tensor([[5, 17, 40, 3, 99, 12]])
CALIBRATION = [[i % 290 + 3 for i in range(start, start + 32)] for start in range(0, 320, 20)]


def _layers(model: LanguageModel) -> dict[str, Int8Linear]:
    return {name: module for name, module in model.network.named_modules() if isinstance(module, Int8Linear)}


def test_the_scale_is_what_calibration_saw(tiny_llama: LanguageModel) -> None:
    """The largest input of each layer over 127; the weights are `dynamic`'s."""
    largest: dict[str, float] = {}
    names = ["model.layers.0.mlp.up_proj", "model.layers.1.self_attn.o_proj"]
    watch_inputs(
        tiny_llama.network,
        names,
        CALIBRATION,
        lambda name, x: largest.update({name: max(largest.get(name, 0.0), float(x.abs().max()))}),
    )
    other = deepcopy(tiny_llama)
    Dynamic().quantize(other)
    Static(observer="min_max", noise_limit=None).quantize(tiny_llama, CALIBRATION)
    for name, layer in _layers(tiny_llama).items():
        assert not layer.dynamic
        assert torch.equal(layer.weight, _layers(other)[name].weight)
        if name in names:
            assert float(layer.input_scale) == pytest.approx(largest[name] / 127)


def test_outputs_stay_close(tiny_llama: LanguageModel) -> None:
    for symmetric in (True, False):
        model = deepcopy(tiny_llama)
        with torch.no_grad():
            before = model.network(IDS).logits
            observer = {"min_max": {"symmetric": symmetric}}
            Static(observer=observer, noise_limit=None).quantize(model, CALIBRATION)
            after = model.network(IDS).logits
        assert 0 < (after - before).norm() / before.norm() < 0.05


def test_a_huge_token_keeps_its_layer_in_floating_point(tiny_llama: LanguageModel) -> None:
    """One token of each text is made a thousand times larger in front of one layer: covered, all others become zero."""
    network = tiny_llama.network
    name = "model.layers.1.mlp.down_proj"

    def enlarge(_: object, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        largest = inputs[0].norm(dim=-1, keepdim=True)
        return (torch.where(largest == largest.max(), inputs[0] * 1000, inputs[0]),)

    hook = network.get_submodule(name).register_forward_pre_hook(enlarge)
    method = Static(observer="min_max", noise_limit=0.01)
    done = method.apply(tiny_llama, CALIBRATION)
    hook.remove()
    assert done.float_activations == [name]
    assert done.noise_limit is None
    assert [key for key, layer in _layers(tiny_llama).items() if layer.input_scale is None] == [name]


def test_the_card_names_the_layers_in_floating_point(tiny_llama: LanguageModel, tmp_path: Path) -> None:
    Static(noise_limit=1e-4).quantize(tiny_llama, CALIBRATION)
    floating = [name for name, layer in _layers(tiny_llama).items() if layer.input_scale is None]
    ((family, block),) = tiny_llama.card["surgery"][0].items()
    method = catalog.build(family, block)
    assert floating
    assert method.float_activations == floating
    assert method.noise_limit is None
    save(tiny_llama, tmp_path / "small")
    loaded = sources.load(str(tmp_path / "small"), device="cpu")
    assert torch.equal(loaded.network(IDS).logits, tiny_llama.network(IDS).logits)


def test_rules_keep_layers_in_floating_point(tiny_llama: LanguageModel) -> None:
    Static(float_activations="attention", noise_limit=None).quantize(tiny_llama, CALIBRATION)
    for name, layer in _layers(tiny_llama).items():
        assert (layer.input_scale is None) == ("self_attn" in name)


def test_no_texts(tiny_llama: LanguageModel) -> None:
    before = tiny_llama.fingerprint()
    with pytest.raises(BadRequest, match="calibration"):
        Static().quantize(tiny_llama)
    assert tiny_llama.fingerprint() == before


@pytest.mark.real_model
def test_smollm2_keeps_its_massive_activations(smollm2: LanguageModel) -> None:
    """With one range for all layers perplexity doubles; the few that can't do with one are found."""
    records = dataset.read("builtin:prose", kind="text").records
    assert all(isinstance(record, Text) for record in records)
    ids = smollm2.tokenizer("\n".join(record.text for record in records))["input_ids"][1024:2048]
    calibration = [ids[start : start + 256] for start in range(0, 1024, 256)]
    measure = Perplexity(max_tokens=512, window=512).measure
    before = measure(smollm2).value
    model = LanguageModel(deepcopy(smollm2.network), smollm2.tokenizer, card=deepcopy(smollm2.card))
    Static(observer="min_max").quantize(model, calibration)
    fixed = [name for name, layer in _layers(model).items() if layer.input_scale is not None]
    assert 100 < len(fixed) < 205
    assert "model.layers.11.mlp.down_proj" not in fixed
    assert measure(model).value == pytest.approx(before, rel=0.05)
