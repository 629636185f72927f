"""Dynamic int8: the weights by hand and by bound, what is refused, and what it costs on a real model."""

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
from posttrain.quantize.linear import Int8Linear
from posttrain.quantize.methods.dynamic import Dynamic

IDS = torch.tensor([[5, 17, 40, 3, 99, 12]])


def test_weights_by_hand(tiny_llama: LanguageModel) -> None:
    """Each row has its own step, largest / 127.

    Row 0 is 1.27, -0.634, 0.005 …: step 0.01, so 127, -63, 0 (0.5 to the even 0). Row 1 is zero and stays zero.
    """
    weight = tiny_llama.network.model.layers[0].mlp.up_proj.weight
    with torch.no_grad():
        weight[0] = 0
        weight[0, :4] = torch.tensor([1.27, -0.634, 0.0049, -1.27])
        weight[1] = 0
    Dynamic(targets="layers.0.mlp.up_proj").quantize(tiny_llama)
    layer = tiny_llama.network.model.layers[0].mlp.up_proj
    assert isinstance(layer, Int8Linear)
    assert layer.dynamic
    assert layer.scale[0] == pytest.approx(0.01)
    assert layer.weight[0, :4].tolist() == [127, -63, 0, -127]
    assert not layer.weight[1].any()
    assert torch.equal(layer(torch.ones(64))[1], torch.tensor(0.0))


def test_every_row_uses_the_whole_range(tiny_llama: LanguageModel) -> None:
    Dynamic().quantize(tiny_llama)
    layers = [m for m in tiny_llama.network.modules() if isinstance(m, Int8Linear)]
    assert len(layers) == 2 * 7
    assert all((layer.weight.abs().amax(1) == 127).all() for layer in layers)


def test_attention_rounds_its_weights_only_unless_told_otherwise(tiny_llama: LanguageModel) -> None:
    fingerprints = set()
    for rule, dynamic in (("attention", 2 * 3), (None, 2 * 7), (["q_proj", "mlp"], 2 * 3)):
        model = deepcopy(tiny_llama)
        Dynamic(float_activations=rule).quantize(model)
        layers = {n: m for n, m in model.network.named_modules() if isinstance(m, Int8Linear)}
        assert len(layers) == 2 * 7
        assert sum(layer.dynamic for layer in layers.values()) == dynamic
        assert not layers["model.layers.0.self_attn.q_proj"].dynamic or rule is None
        fingerprints.add(model.fingerprint())
        empty = deepcopy(tiny_llama.network)
        Dynamic(float_activations=rule).prepare(empty)
        assert all(empty.get_submodule(name).dynamic == layer.dynamic for name, layer in layers.items())
    assert len(fingerprints) == 3  # the tensors are the same, what is computed from them isn't


def test_outputs_stay_close(tiny_llama: LanguageModel) -> None:
    with torch.no_grad():
        before = tiny_llama.network(IDS).logits
        Dynamic().quantize(tiny_llama)
        after = tiny_llama.network(IDS).logits
    relative = (after - before).norm() / before.norm()
    assert 0 < relative < 0.02


def test_half_precision_weights(tiny_llama: LanguageModel) -> None:
    """The step is found in float32 and the outputs stay bfloat16."""
    tiny_llama.network.bfloat16()
    weight = tiny_llama.network.model.layers[0].mlp.up_proj.weight.detach().float()
    Dynamic().quantize(tiny_llama)
    layer = tiny_llama.network.model.layers[0].mlp.up_proj
    assert torch.equal(layer.scale, weight.abs().amax(1) / 127)
    with torch.no_grad():
        assert tiny_llama.network(IDS).logits.dtype == torch.bfloat16


def test_a_tied_projection_is_quantized_beside_the_embedding(tiny_llama: LanguageModel, tmp_path: Path) -> None:
    Dynamic(targets=["mlp", "lm_head"]).quantize(tiny_llama)
    network = tiny_llama.network
    assert isinstance(network.get_output_embeddings(), Int8Linear)
    assert network.get_input_embeddings().weight.dtype == torch.float32
    save(tiny_llama, tmp_path / "small")
    loaded = sources.load(str(tmp_path / "small"), device="cpu").network
    with torch.no_grad():
        assert torch.equal(loaded(IDS).logits, network(IDS).logits)


def test_weights_that_are_no_numbers_are_named(tiny_llama: LanguageModel) -> None:
    with torch.no_grad():
        tiny_llama.network.model.layers[1].mlp.up_proj.weight[3, 3] = float("nan")
    with pytest.raises(Failure, match=r"model\.layers\.1\.mlp\.up_proj has weights that are not numbers"):
        Dynamic().quantize(tiny_llama)


@pytest.mark.real_model
def test_smollm2_loses_little_and_shrinks(smollm2: LanguageModel, tmp_path: Path) -> None:
    """Its linear layers are 106 of 135 million parameters; the embedding stays: (28 · 4 + 106) / (135 · 4) = 41 %."""
    measure = Perplexity(max_tokens=512, window=512).measure
    before = measure(smollm2)
    small = LanguageModel(deepcopy(smollm2.network), smollm2.tokenizer, card=deepcopy(smollm2.card))
    Dynamic().quantize(small)
    after = measure(small)
    assert after.value == pytest.approx(before.value, rel=0.02)
    assert after.signature != before.signature
    save(small, tmp_path / "small")
    written = sum(file.stat().st_size for file in (tmp_path / "small").iterdir())
    assert written < 0.45 * smollm2.nbytes()
    assert small.nbytes() < 0.45 * smollm2.nbytes()
