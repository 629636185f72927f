"""Layer-wise learning-rate decay: which rate each layer gets, and that updates follow it."""

from __future__ import annotations

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM

from posttrain.adapt.lora import Lora
from posttrain.core.errors import BadRequest
from posttrain.data.packing import Packed
from posttrain.train.loop import Loop, train
from posttrain.train.objectives.language_modeling import LanguageModeling
from posttrain.train.optimizer import Optimizer

SMALL = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "vocab_size": 30, "intermediate_size": 16}


def _llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SMALL, tie_word_embeddings=False, max_position_embeddings=16))


def _rates(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    return {name: group["lr"] for group in optimizer.param_groups for name in group["names"]}


def test_rates_of_three_layers_by_hand():
    """A rate of 1 and a decay of 1/2: head 1, blocks 1/2, 1/4 and 1/8 from the top, embeddings 1/16."""
    network = BertForSequenceClassification(BertConfig(**SMALL))
    rates = _rates(Optimizer(layer_decay=0.5).build(network, 1.0))
    assert rates.keys() == {name for name, _ in network.named_parameters()}
    starts = {
        "classifier.": 1.0,
        "bert.pooler.": 1.0,
        "bert.encoder.layer.2.": 1 / 2,
        "bert.encoder.layer.1.": 1 / 4,
        "bert.encoder.layer.0.": 1 / 8,
        "bert.embeddings.": 1 / 16,
    }
    assert rates == {name: rate for name in rates for start, rate in starts.items() if name.startswith(start)}


def test_factors_of_parameters_and_layers_multiply():
    """LoRA+'s factor 16 on B in the lowest of three layers gives 16 / 8."""
    network = _llama()
    Lora(rank=2, targets="q_proj").apply(network)
    for name, parameter in network.named_parameters():
        if ".B." in name:
            parameter.learning_rate_factor = 16.0
    rates = _rates(Optimizer(layer_decay=0.5, weight_decay=0.1).build(network, 1.0))
    place = "model.layers.{}.self_attn.q_proj.{}.default"
    assert rates == {
        place.format(layer, side): factor * own
        for layer, factor in ((0, 1 / 8), (1, 1 / 4), (2, 1 / 2))
        for side, own in (("A", 1.0), ("B", 16.0))
    }


def test_without_decay_all_learn_alike():
    network = _llama()
    assert set(_rates(Optimizer().build(network, 0.25)).values()) == {0.25}
    assert set(_rates(Optimizer(layer_decay=1.0).build(network, 0.25)).values()) == {0.25}


def test_a_network_without_layers_is_refused():
    network = _llama()
    network.config.num_hidden_layers = 7
    with pytest.raises(BadRequest, match="no list of 7 blocks"):
        Optimizer(layer_decay=0.9).build(network, 1.0)


def test_updates_scale_with_the_layer():
    """AdamW's first step is the rate times g / (|g| + epsilon): each number moves by its layer's rate or not at all."""
    network = _llama()
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    ids = torch.arange(1, 13)
    batch = Packed(ids, ids.roll(-1).where(torch.arange(12) < 11, -100), torch.tensor([0, 12]))
    settings = Loop(
        steps=1, learning_rate=1e-3, clip=None, optimizer=Optimizer(layer_decay=0.5, epsilon=1e-12), schedule="constant"
    )
    result = train(network, LanguageModeling(), [[batch]], settings)
    assert result.history[0]["learning_rate"] == 1e-3
    moved = {name: (p.detach() - before[name]).abs().max().item() for name, p in network.named_parameters()}
    for start, rate in (
        ("lm_head.", 1e-3),
        ("model.norm.", 1e-3),
        ("model.layers.2.", 5e-4),
        ("model.layers.1.", 2.5e-4),
        ("model.layers.0.", 1.25e-4),
        ("model.embed_tokens.", 6.25e-5),
    ):
        found = [value for name, value in moved.items() if name.startswith(start)]
        assert found
        assert found == pytest.approx([rate] * len(found), rel=2e-3)
