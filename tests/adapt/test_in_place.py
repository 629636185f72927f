"""full, head_only and bitfit: exactly the declared parameters are trained."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2LMHeadModel

from posttrain.adapt.bitfit import Bitfit
from posttrain.adapt.full import Full
from posttrain.adapt.head_only import HeadOnly
from posttrain.core import events
from posttrain.core.errors import BadRequest
from posttrain.data import dataset
from posttrain.data.collate import Batches
from posttrain.models.language_model import LanguageModel
from posttrain.train.loop import Loop, train
from posttrain.train.objectives import Encoding
from posttrain.train.objectives.language_modeling import LanguageModeling


def _trained(network: torch.nn.Module) -> set[str]:
    return {name for name, p in network.named_parameters() if p.requires_grad}


def test_full_trains_everything(tiny_llama):
    Full().apply(tiny_llama.network)
    assert _trained(tiny_llama.network) == {name for name, _ in tiny_llama.network.named_parameters()}


def test_full_with_frozen_layers(tiny_llama):
    """Of two layers the lower one and the (tied) embeddings stay; the upper one and the last norm are trained."""
    Full(freeze_layers=1).apply(tiny_llama.network)
    names = _trained(tiny_llama.network)
    assert all(name.startswith(("model.layers.1.", "model.norm.")) for name in names) and len(names) == 10


def test_full_with_frozen_layers_of_gpt2():
    """Position embeddings and token embeddings, which the head shares, are frozen with the lowest block."""
    network = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2, n_positions=8))
    Full(freeze_layers=1).apply(network)
    assert _trained(network) == {
        name for name, _ in network.named_parameters() if name.startswith(("transformer.h.1.", "transformer.ln_f."))
    }


def test_more_frozen_layers_than_there_are(tiny_llama):
    Full(freeze_layers=2).apply(deepcopy(tiny_llama).network)
    with pytest.raises(BadRequest, match="freeze_layers: 3, but LlamaForCausalLM has 2 layers"):
        Full(freeze_layers=3).apply(tiny_llama.network)


ROWS = [{"prompt": f"What is {i}?", "completion": f" It is {i}."} for i in range(8)]


def _trainings(model: LanguageModel, adapter: Full, steps: int, **options) -> torch.nn.Module:
    network = deepcopy(model.network)
    adapter.apply(network)
    items = LanguageModeling().encode(dataset.read(ROWS), model, Encoding())
    train(
        network,
        LanguageModeling(),
        Batches(items, 4, 4096, seed=1),
        Loop(steps=steps, learning_rate=1e-2, optimizer={"weight_decay": 0.1}, checkpoint_every=1),
        parts={"adapter": adapter},
        **options,
    )
    return network


def _changed(before: torch.nn.Module, after: torch.nn.Module) -> set[str]:
    pairs = zip(before.named_parameters(), after.parameters(), strict=True)
    return {name for (name, old), new in pairs if not torch.equal(old, new)}


def test_frozen_layers_stay_bit_for_bit(tiny_llama):
    adapter = Full(freeze_layers=1)
    network = _trainings(tiny_llama, adapter, 3)
    changed = _changed(tiny_llama.network, network)
    assert changed == {
        name for name, _ in network.named_parameters() if name.startswith(("model.layers.1.", "model.n"))
    }


@pytest.mark.parametrize(("frozen", "joined"), [(0, [1, 1, 2, 2, 3, 3, 4, 4]), (1, [1, 1, 2, 2, 2, 2, 2, 2])])
def test_layers_join_from_the_top(tiny_llama, frozen, joined):
    """Every two steps: the final norm, then layer 1, layer 0 and the (tied) embeddings; until then bit for bit."""
    order = ["model.norm.", "model.layers.1.", "model.layers.0.", "model.embed_tokens."]
    adapter = Full(unfreeze_every=2, freeze_layers=frozen)
    for step, count in enumerate(joined, 1):
        network = _trainings(tiny_llama, adapter, step)
        expected = {name for name, _ in network.named_parameters() if name.startswith(tuple(order[:count]))}
        assert _changed(tiny_llama.network, network) == expected, step


def test_layers_that_wait_cost_no_gradient(tiny_llama):
    seen = []

    class Watched(Full):
        def before_update(self, network, step, steps):
            seen.append({name.split(".")[1] for name, p in network.named_parameters() if p.grad is not None})
            super().before_update(network, step, steps)

    _trainings(tiny_llama, Watched(unfreeze_every=2), 5)
    assert seen[1:] == [{"norm"}, {"norm", "layers"}, {"norm", "layers"}, {"norm", "layers"}]


@pytest.mark.parametrize("stop_after", [1, 2, 4])
def test_gradual_unfreezing_goes_on_bit_for_bit(tiny_llama, tmp_path, stop_after):
    adapter = Full(unfreeze_every=2)

    def kill(event: events.Event) -> None:
        if event.kind == "advance" and event.fields["done"] == stop_after + 1:
            raise KeyboardInterrupt

    whole = _trainings(tiny_llama, adapter, 7)
    with pytest.raises(KeyboardInterrupt), events.listen(kill):
        _trainings(tiny_llama, adapter, 7, checkpoint=tmp_path)
    assert _changed(whole, _trainings(tiny_llama, adapter, 7, checkpoint=tmp_path)) == set()


def test_full_without_a_copy_says_how_to_keep_one(tiny_llama):
    adapter = Full()
    adapter.apply(tiny_llama.network)
    with pytest.raises(BadRequest) as refused, adapter.disabled(tiny_llama.network):
        pass
    assert "`full`" in refused.value.problem
    assert "adapt: {full: {keep_base: true}}" in refused.value.suggestion


def test_head_only_on_a_classifier():
    network = BertForSequenceClassification(
        BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    )
    HeadOnly().apply(network)
    assert _trained(network) == {"classifier.weight", "classifier.bias"}


def test_head_only_on_a_tied_language_model(tiny_llama):
    HeadOnly().apply(tiny_llama.network)
    assert _trained(tiny_llama.network) == {"model.embed_tokens.weight"}


def test_bitfit_trains_biases_and_norms():
    """GPT-2's block has six biases in its four linear maps and two norms (c_attn, c_proj, c_fc, c_proj; ln_1, ln_2)."""
    network = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2, n_positions=8))
    Bitfit(include_norms=False).apply(deep := deepcopy(network))
    assert len(_trained(deep)) == 7 and all(name.endswith("bias") for name in _trained(deep))
    Bitfit().apply(network)
    assert _trained(network) - _trained(deep) == {
        "transformer.h.0.ln_1.weight",
        "transformer.h.0.ln_2.weight",
        "transformer.ln_f.weight",
    }


def test_a_network_without_biases_is_refused(tiny_llama):
    with pytest.raises(BadRequest, match="no parameter that Bitfit trains"):
        Bitfit(include_norms=False).apply(tiny_llama.network)
