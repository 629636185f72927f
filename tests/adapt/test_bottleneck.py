"""Bottleneck adapters: hand-worked numbers, the places in several architectures, saving and loading."""

from __future__ import annotations

import json
from copy import deepcopy

import pytest
import torch
from torch import nn
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    DistilBertConfig,
    DistilBertModel,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from posttrain.adapt import adapter_layers, trainable_share
from posttrain.adapt.bottleneck import Bottleneck, BottleneckLayer
from posttrain.adapt.lora import Lora
from posttrain.core.errors import BadRequest, Failure


def test_hand_worked():
    """f doubles; D = [1, -1], d = 1, relu, U = [2, 3]^T, u = (0, 1).

    x = (3, 1): y = (6, 2), D y + d = 5, U 5 + u = (10, 16), result (16, 18).
    x = (1, 3): y = (2, 6), D y + d = -3, relu 0, result y + u = (2, 7).
    """
    base = nn.Linear(2, 2, bias=False)
    base.weight.data = 2 * torch.eye(2)
    layer = BottleneckLayer(base)
    layer.add("default", 1, "relu")
    x = torch.tensor([[3.0, 1.0], [1.0, 3.0]])
    layer.active = "default"
    assert torch.equal(layer(x), base(x))  # up starts at zero
    layer.down["default"].weight.data = torch.tensor([[1.0, -1.0]])
    layer.down["default"].bias.data = torch.tensor([1.0])
    layer.up["default"].weight.data = torch.tensor([[2.0], [3.0]])
    layer.up["default"].bias.data = torch.tensor([0.0, 1.0])
    assert layer(x).tolist() == [[16.0, 18.0], [2.0, 7.0]]
    layer.active = None
    assert torch.equal(layer(x), base(x))


def test_parameter_count(tiny_llama):
    """2 m H + H + m each: 2 · 8 · 64 + 64 + 8 = 1096; two layers, two places (houlsby) or one (pfeiffer)."""
    for placement, count in (("houlsby", 4), ("pfeiffer", 2)):
        network = deepcopy(tiny_llama.network)
        Bottleneck(placement=placement, width=8).apply(network)
        assert trainable_share(network)[0] == count * 1096


_SMALL = {"vocab_size": 50}
ARCHITECTURES = {
    "bert": (
        lambda: BertForMaskedLM(
            BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, **_SMALL)
        ),
        ["attention.output.dense", "layer.0.output.dense"],
    ),
    "gpt2": (
        lambda: GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, **_SMALL)),
        ["attn.c_proj", "mlp.c_proj"],
    ),
    "distilbert": (
        lambda: DistilBertModel(DistilBertConfig(dim=16, n_layers=1, n_heads=2, hidden_dim=32, **_SMALL)),
        ["attention.out_lin", "ffn.lin2"],
    ),
    "gpt_neox": (
        lambda: GPTNeoXForCausalLM(
            GPTNeoXConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, **_SMALL)
        ),
        ["attention.dense", "mlp.dense_4h_to_h"],
    ),
    "opt": (
        lambda: OPTForCausalLM(
            OPTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, ffn_dim=16, word_embed_proj_dim=16)
        ),
        ["self_attn.out_proj", "layers.0.fc2"],
    ),
    "bart": (
        lambda: BartForConditionalGeneration(
            BartConfig(
                d_model=16,
                encoder_layers=1,
                decoder_layers=1,
                encoder_attention_heads=2,
                decoder_attention_heads=2,
                encoder_ffn_dim=32,
                decoder_ffn_dim=32,
                **_SMALL,
            )
        ),
        ["self_attn.out_proj", "fc2", "self_attn.out_proj", "encoder_attn.out_proj", "fc2"],
    ),
    "t5": (
        lambda: T5ForConditionalGeneration(
            T5Config(d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, feed_forward_proj="gated-gelu", **_SMALL)
        ),
        ["SelfAttention.o", "DenseReluDense.wo", "SelfAttention.o", "EncDecAttention.o", "DenseReluDense.wo"],
    ),
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_places(architecture):
    """After every attention and every feed-forward of encoders, decoders and both; nowhere else."""
    make, expected = ARCHITECTURES[architecture]
    for placement in ("houlsby", "pfeiffer"):
        network = make()
        Bottleneck(placement=placement, width=4).apply(network)
        places = list(adapter_layers(network))
        wanted = [end for end in expected if placement == "houlsby" or "att" not in end.lower()]
        assert len(places) == len(wanted)
        assert all(place.endswith(end) for place, end in zip(places, wanted)), places


def test_a_network_without_blocks_is_refused():
    """A GPT-2 without layers has none."""
    with pytest.raises(BadRequest):
        Bottleneck().apply(GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=0, n_head=2, **_SMALL)))


def test_a_width_that_is_no_bottleneck_is_refused(tiny_llama):
    with pytest.raises(BadRequest, match=r"no bottleneck for .*down_proj"):
        Bottleneck(placement="pfeiffer", width=65).apply(tiny_llama.network)
    assert not adapter_layers(tiny_llama.network)


def test_methods_do_not_stack_on_one_module(tiny_llama):
    Bottleneck().apply(tiny_llama.network)
    with pytest.raises(BadRequest, match="another method"):
        Lora().apply(tiny_llama.network)


def test_a_second_one_finds_the_same_places(tiny_llama):
    network = tiny_llama.network
    Bottleneck(width=4).apply(network, "first")
    places = set(adapter_layers(network))
    Bottleneck(width=8).apply(network, "second")
    assert set(adapter_layers(network)) == places
    assert all(layer.holds("first") and layer.holds("second") for layer in adapter_layers(network).values())


def test_an_adapter_of_another_network_is_refused(tiny_llama, tmp_path):
    adapter = Bottleneck(placement="houlsby", width=4)
    network = deepcopy(tiny_llama.network)
    adapter.apply(tiny_llama.network)
    adapter.save(tiny_llama, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["peft_type"] == "BOTTLENECK"
    config["settings"]["placement"] = "pfeiffer"
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(Failure, match=r"o_proj\.down\.bias"):
        Bottleneck.load(network, tmp_path)
