"""Surgery: rules find the modules they should in the architectures people use, and nothing else; replacing is exact."""

from __future__ import annotations

import logging

import pytest
import torch
import transformers
from torch import nn
from transformers.pytorch_utils import Conv1D

from posttrain.adapt.lora import Lora
from posttrain.core.errors import BadRequest
from posttrain.models.surgery import blocks, features, is_linear, layer_numbers, replace, select

LAYERS = ("model.layers.0", "model.layers.1")
ATTENTION = [f"self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "o_proj")]
MLP = [f"mlp.{name}" for name in ("gate_proj", "up_proj", "down_proj")]


def names(*groups: list[str]) -> list[str]:
    """Dotted names in both layers of the tiny Llama, in its order."""
    return [f"{layer}.{name}" for layer in LAYERS for group in groups for name in group]


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ("attention", names(ATTENTION)),
        ("mlp", names(MLP)),
        ("all-linear", names(ATTENTION, MLP)),
        ("embeddings", ["model.embed_tokens"]),
        ("lm_head", ["lm_head"]),  # the head only by its name
        ("q_proj", names(["self_attn.q_proj"])),
        ("layers.1.mlp.up_proj", ["model.layers.1.mlp.up_proj"]),
        ("model.layers.1.mlp.up_proj", ["model.layers.1.mlp.up_proj"]),
        (r".*layers\.0\..*(q|v)_proj", ["model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj"]),
        (["v_proj", "q_proj"], names(["self_attn.q_proj", "self_attn.v_proj"])),  # in the network's order
        (["attention", "q_proj", "mlp"], names(ATTENTION, MLP)),  # each once
        (["embeddings", "lm_head"], ["model.embed_tokens", "lm_head"]),
    ],
)
def test_rules(tiny_llama, targets, expected):
    network = tiny_llama.network
    chosen = select(network, targets)
    assert list(chosen) == expected
    assert all(module is network.get_submodule(name) for name, module in chosen.items())


@pytest.mark.parametrize(
    ("rule", "sentence"),
    [
        ("q_porj", "No module of LlamaForCausalLM matches 'q_porj'. Did you mean 'q_proj'"),
        ("atention", "No module of LlamaForCausalLM matches 'atention'. Did you mean 'attention'"),
        ("proj", "No module of LlamaForCausalLM matches 'proj'."),  # the end of a name means a whole word of it
        ("layers.0", "No module of LlamaForCausalLM matches 'layers.0'."),  # a block is no linear map
        ("(q_proj", "No module of LlamaForCausalLM matches '(q_proj'."),  # not even a regular expression
        ("", "No module of LlamaForCausalLM matches ''."),
        ("input_layernorm", "No module of LlamaForCausalLM matches 'input_layernorm'."),
    ],
)
def test_a_rule_that_selects_nothing(tiny_llama, rule, sentence):
    with pytest.raises(BadRequest) as caught:
        select(tiny_llama.network, [rule, "attention"])
    assert str(caught.value).startswith(sentence)


SIZES = {
    "num_hidden_layers": 1,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "vocab_size": 50,
}
GPT2 = {"n_layer": 1, "n_embd": 16, "n_head": 2, "vocab_size": 50}
BART = {
    "encoder_layers": 1,
    "decoder_layers": 1,
    "d_model": 16,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "vocab_size": 50,
}
T5 = {"num_layers": 1, "d_model": 16, "d_ff": 32, "num_heads": 2, "d_kv": 8, "vocab_size": 50}
OPT = {
    "num_hidden_layers": 1,
    "hidden_size": 16,
    "ffn_dim": 32,
    "num_attention_heads": 2,
    "vocab_size": 50,
    "word_embed_proj_dim": 8,
}


@pytest.mark.parametrize(
    ("family", "task", "sizes", "attention", "mlp", "neither"),
    [
        ("GPT2", "LMHeadModel", GPT2, 2, 2, set()),
        ("GPTNeoX", "ForCausalLM", SIZES, 2, 2, set()),
        ("Qwen2", "ForCausalLM", SIZES, 4, 3, set()),
        ("Phi", "ForCausalLM", SIZES, 4, 2, set()),
        ("Bloom", "ForCausalLM", {**GPT2, "hidden_size": 16}, 2, 2, set()),
        ("OPT", "ForCausalLM", OPT, 4, 2, {"model.decoder.project_in", "model.decoder.project_out"}),
        ("Bert", "ForMaskedLM", SIZES, 4, 2, {"cls.predictions.transform.dense"}),
        ("Bert", "ForSequenceClassification", SIZES, 4, 2, {"bert.pooler.dense", "classifier"}),
        ("Roberta", "ForTokenClassification", SIZES, 4, 2, {"classifier"}),
        # Encoder and decoder: self-attention in both, cross-attention in one.
        ("T5", "ForConditionalGeneration", T5, 12, 4, set()),
        ("Bart", "ForConditionalGeneration", BART, 12, 4, set()),
    ],
)
def test_groups_in_other_architectures(family, task, sizes, attention, mlp, neither):
    """Attention and mlp part all linear maps between them, less a few that belong to neither; the head is in none."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    with torch.device("meta"):
        network = getattr(transformers, family + task)(getattr(transformers, f"{family}Config")(**sizes))
    found = {group: set(select(network, group)) for group in ("attention", "mlp", "all-linear")}
    assert (len(found["attention"]), len(found["mlp"])) == (attention, mlp)
    assert not found["attention"] & found["mlp"]
    assert found["all-linear"] - found["attention"] - found["mlp"] == neither
    assert found["attention"] | found["mlp"] <= found["all-linear"]


def test_linear_maps_and_their_features():
    class Quantized(nn.Module):
        """A module that says it is a linear map."""

        is_linear = True
        in_features, out_features = 3, 5

    modules = [nn.Linear(3, 5), Conv1D(5, 3), Quantized(), nn.Embedding(3, 5)]
    assert [is_linear(module) for module in modules] == [True, True, True, False]
    assert [features(module) for module in modules] == [(3, 5)] * 4  # Conv1D(outputs, inputs) holds [inputs, outputs]
    assert is_linear(nn.LayerNorm(3)) is False and is_linear(nn.Conv1d(3, 5, 1)) is False


def test_replacing_and_putting_back(tiny_llama):
    network = tiny_llama.network
    ids = torch.tensor([[5, 17, 40]])
    with torch.no_grad():
        expected = network(ids).logits
        before = {
            name: replace(network, name, nn.Linear(*features(m), bias=False))
            for name, m in select(network, "mlp").items()
        }
        assert all(network.get_submodule(name) is not old for name, old in before.items())
        assert not torch.equal(network(ids).logits, expected)
        for name, old in before.items():
            replace(network, name, old)
        assert torch.equal(network(ids).logits, expected)


def test_replacing_in_lists_and_at_the_top():
    network = nn.Sequential(nn.Linear(2, 2), nn.ModuleList([nn.Linear(2, 3)]))
    first, inner = network[0], network[1][0]
    new = nn.Identity()
    assert replace(network, "0", new) is first and network[0] is new
    assert replace(network, "1.0", new) is inner and network[1][0] is new
    with pytest.raises(AttributeError):
        replace(network, "1.7", new)


SMALL = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "vocab_size": 30}


@pytest.mark.parametrize(
    ("network_class", "config", "expected"),
    [
        (
            "LlamaForCausalLM",
            transformers.LlamaConfig(**SMALL, intermediate_size=16, tie_word_embeddings=False),
            {
                "model.embed_tokens.weight": 0,
                "model.layers.0.mlp.up_proj.weight": 1,
                "model.layers.2.input_layernorm.weight": 3,
                "model.norm.weight": 4,
                "lm_head.weight": 4,
            },
        ),
        (
            "BertForSequenceClassification",
            transformers.BertConfig(**SMALL, intermediate_size=16),
            {
                "bert.embeddings.position_embeddings.weight": 0,
                "bert.embeddings.LayerNorm.bias": 0,
                "bert.encoder.layer.1.output.dense.weight": 2,
                "bert.pooler.dense.weight": 4,
                "classifier.bias": 4,
            },
        ),
        (
            "GPT2LMHeadModel",
            transformers.GPT2Config(vocab_size=30, n_embd=16, n_layer=3, n_head=2, n_positions=8),
            {
                "transformer.wte.weight": 0,
                "transformer.wpe.weight": 0,
                "transformer.h.0.attn.c_attn.weight": 1,
                "transformer.ln_f.bias": 4,
            },
        ),
        (
            "GPTNeoXForCausalLM",
            transformers.GPTNeoXConfig(**SMALL, intermediate_size=16),
            {"gpt_neox.embed_in.weight": 0, "gpt_neox.layers.2.mlp.dense_h_to_4h.bias": 3, "lm_head.weight": 4},
        ),
        (  # three experts in each of three blocks
            "MixtralForCausalLM",
            transformers.MixtralConfig(
                **SMALL, intermediate_size=16, num_local_experts=3, num_key_value_heads=1, num_experts_per_tok=1
            ),
            {"model.embed_tokens.weight": 0, "model.layers.1.mlp.gate.weight": 2, "model.norm.weight": 4},
        ),
        (
            "T5ForConditionalGeneration",
            transformers.T5Config(vocab_size=30, d_model=16, d_kv=8, d_ff=16, num_layers=3, num_heads=2),
            {
                "shared.weight": 0,
                "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": 1,
                "decoder.block.2.layer.1.EncDecAttention.q.weight": 3,
                "decoder.final_layer_norm.weight": 4,
            },
        ),
    ],
)
def test_layers_of_parameters(network_class, config, expected):
    """Three blocks: embeddings are layer 0, blocks 1 to 3, what stands above them 4."""
    network = getattr(transformers, network_class)(config)
    numbers, top = layer_numbers(network)
    assert top == 4
    assert numbers.keys() == {name for name, _ in network.named_parameters()}
    assert {name: numbers[name] for name in expected} == expected


def test_what_an_adapter_adds_counts_like_its_module(tiny_llama):
    Lora(rank=2, targets=["embeddings", "q_proj"]).apply(tiny_llama.network)
    numbers, top = layer_numbers(tiny_llama.network)
    added = {name: number for name, number in numbers.items() if name.endswith("A.default")}
    assert top == 3
    assert added == {
        "model.embed_tokens.A.default": 0,
        "model.layers.0.self_attn.q_proj.A.default": 1,
        "model.layers.1.self_attn.q_proj.A.default": 2,
    }


def test_a_network_without_blocks(tiny_llama):
    assert blocks(tiny_llama.network) == {"model.layers.0": (0, 2), "model.layers.1": (1, 2)}
    tiny_llama.network.config.num_hidden_layers = 5
    with pytest.raises(BadRequest, match="no list of 5 blocks"):
        blocks(tiny_llama.network)
