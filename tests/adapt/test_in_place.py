"""full, head_only and bitfit: exactly the declared parameters are trained."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2LMHeadModel

from posttrain.adapt.bitfit import Bitfit
from posttrain.adapt.full import Full
from posttrain.adapt.head_only import HeadOnly
from posttrain.core.errors import BadRequest


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


def test_full_without_a_copy_says_how_to_keep_one(tiny_llama):
    adapter = Full()
    adapter.apply(tiny_llama.network)
    with pytest.raises(BadRequest, match="keep_base"), adapter.disabled(tiny_llama.network):
        pass


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
