"""Packed passes equal one pass a sequence, on every kind of attention; the vocabulary head equals the logits."""

from __future__ import annotations

import itertools
from copy import deepcopy

import pytest
import torch
import transformers

from posttrain.adapt.lora import Lora
from posttrain.models.forward import hidden_states, layer_states, supports_packing, vocabulary_head

SHAPE = {
    "vocab_size": 300,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}


def _network(kind: str) -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    grouped = {**SHAPE, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64}
    configs = {
        "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**grouped)),
        "gpt2": lambda: transformers.GPT2LMHeadModel(
            transformers.GPT2Config(vocab_size=300, n_embd=32, n_layer=2, n_head=4, n_positions=64)
        ),
        "mistral with a sliding window": lambda: transformers.MistralForCausalLM(
            transformers.MistralConfig(**grouped, sliding_window=4)
        ),
        "qwen2": lambda: transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**grouped)),
        "bert": lambda: transformers.BertModel(transformers.BertConfig(**SHAPE, max_position_embeddings=64)),
        "gemma2 with score caps": lambda: transformers.Gemma2ForCausalLM(
            transformers.Gemma2Config(**grouped, query_pre_attn_scalar=8, sliding_window=4)
        ),
        "gpt neo without the interface": lambda: transformers.GPTNeoForCausalLM(
            transformers.GPTNeoConfig(
                vocab_size=300,
                hidden_size=32,
                num_layers=2,
                num_heads=4,
                attention_types=[[["global", "local"], 1]],
                max_position_embeddings=64,
                window_size=8,
            )
        ),
    }
    return configs[kind]().eval()


KINDS = [
    "llama",
    "gpt2",
    "mistral with a sliding window",
    "qwen2",
    "bert",
    "gemma2 with score caps",
    "gpt neo without the interface",
]
SEQUENCES = [[5, 17, 40, 3, 99, 12, 7, 7, 21], [8], [250, 3, 4, 5, 6], [1, 2]]


@pytest.mark.parametrize("kind", KINDS)
def test_packed_equals_one_by_one(kind):
    network = _network(kind)
    assert supports_packing(network) == (kind not in KINDS[-2:])
    reference = deepcopy(network)
    reference.config._attn_implementation = "eager"
    flat = torch.tensor([token for ids in SEQUENCES for token in ids])
    boundaries = torch.tensor([0, 9, 10, 15, 17])
    with torch.no_grad():
        ours = hidden_states(network, flat, boundaries)
        theirs = torch.cat([reference.base_model(torch.tensor([ids])).last_hidden_state[0] for ids in SEQUENCES])
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "bert"])
def test_vocabulary_head_equals_the_network(kind):
    network = _network(kind)
    ids = torch.tensor([SEQUENCES[0]])
    with torch.no_grad():
        expected = network(ids).logits[0]
        head = vocabulary_head(network)
        hidden = hidden_states(network, ids[0], torch.tensor([0, 9]))
        torch.testing.assert_close(head.logits(hidden), expected, atol=2e-5, rtol=1e-4)


def test_an_adapted_head_is_seen_in_its_weight(tiny_llama):
    network = deepcopy(tiny_llama.network)
    Lora(rank=2, targets=["lm_head"]).apply(network)
    with torch.no_grad():
        network.lm_head.B["default"].normal_()
    head = vocabulary_head(network)
    hidden = torch.randn(3, 64)
    torch.testing.assert_close(hidden @ head.weight.T, head.logits(hidden), atol=1e-4, rtol=1e-4)
    assert head.weight.requires_grad


def test_ordinary_calls_still_see_their_padding_mask():
    """After a packed pass the network itself, padded and masked, gives what it gave before."""
    network = _network("llama")
    batch = {
        "input_ids": torch.tensor([[5, 17, 40, 3], [0, 0, 8, 9]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]]),
    }
    with torch.no_grad():
        before = network(**batch).logits
        hidden_states(network, torch.tensor([5, 6, 7]), torch.tensor([0, 1, 3]))
        torch.testing.assert_close(network(**batch).logits, before)


def test_no_vocabulary_head():
    with pytest.raises(TypeError, match="no vocabulary projection"):
        vocabulary_head(_network("bert"))


@pytest.mark.parametrize("kind", KINDS)
def test_layer_states_are_the_networks_own(kind):
    """Each sequence's rows of every layer equal those of a pass with that sequence alone."""
    network = _network(kind)
    flat = torch.tensor([token for row in SEQUENCES for token in row])
    boundaries = torch.tensor([0, *itertools.accumulate(len(row) for row in SEQUENCES)])
    with torch.no_grad():
        layers = layer_states(network, flat, boundaries)
        assert torch.equal(layers[-1], hidden_states(network, flat, boundaries))
        for begin, end, row in zip(boundaries, boundaries[1:], SEQUENCES):
            alone = network(input_ids=torch.tensor([row]), output_hidden_states=True).hidden_states
            assert len(layers) == len(alone) > 2
            for ours, theirs in zip(layers, alone):
                torch.testing.assert_close(ours[begin:end], theirs[0], rtol=1e-4, atol=2e-5)
