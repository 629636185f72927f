"""Passes over a tree give the states that each sequence has alone, for several architectures."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from posttrain.bench.shared_pass import SharedPasses, shares_prefixes

_SIZES = {"vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8}
_HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128}


def network(kind):
    torch.manual_seed(0)
    if kind == "llama":
        return LlamaForCausalLM(LlamaConfig(**_SIZES, **_HEADS)).eval()
    if kind == "window":  # far shorter than the sequences
        return MistralForCausalLM(MistralConfig(**_SIZES, **_HEADS, sliding_window=6)).eval()
    if kind == "score caps":
        return Gemma2ForCausalLM(Gemma2Config(**_SIZES, **_HEADS, query_pre_attn_scalar=8, sliding_window=6)).eval()
    config = GPT2Config(vocab_size=60, n_embd=32, n_layer=2, n_head=4, n_positions=128)
    return GPT2LMHeadModel(config).eval()


def sequences():
    """Three levels, a sequence that is another's beginning, and one that shares nothing."""
    draw = torch.Generator().manual_seed(1)

    def some(n):
        return torch.randint(0, 60, (n,), generator=draw).tolist()

    block = some(20)
    contexts = [[*block, *some(12)] for _ in range(3)]
    endings = [[*context, *some(n)] for context in contexts for n in (1, 4, 7)]
    return [*endings, contexts[0], some(9)]


@pytest.mark.parametrize("tokens_per_pass", [1, 25, 1000])
@pytest.mark.parametrize(("kind", "shared"), [("llama", True), ("window", True), ("gpt2", True), ("score caps", False)])
@torch.inference_mode()
def test_states_equal_those_of_separate_passes(kind, shared, tokens_per_pass):
    model = network(kind)
    before = model.config._attn_implementation
    wanted = sequences()
    passes = SharedPasses(model, wanted, tokens_per_pass)
    assert shares_prefixes(model) is shared
    # 20 + 3 * 12 + 3 * (1 + 4 + 7) + 9 where nothing is read twice
    assert passes.tree.tokens == (101 if shared else sum(map(len, wanted)))
    states = {}
    following = 0
    for begin, end, hidden in passes:
        assert begin == following
        following = end
        parts = hidden.split([len(node.tokens) for node in passes.tree.nodes[begin:end]])
        states.update(enumerate(parts, begin))
        assert len(hidden) <= tokens_per_pass or end == begin + 1
    assert following == len(passes.tree.nodes)
    if kind != "score caps":
        assert model.config._attn_implementation == before
    model.config._attn_implementation = "eager"
    for ids, end in zip(wanted, passes.tree.ends):
        ours = torch.cat([states[place] for place in passes.tree.path(end)])
        theirs = model.base_model(torch.tensor([ids])).last_hidden_state[0]
        assert ours.shape == theirs.shape
        assert (ours - theirs).abs().max() < 2e-5
