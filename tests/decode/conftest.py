"""Tiny networks of several architectures, and a reference that decodes without any cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from posttrain.models.language_model import LanguageModel

_LLAMA_LIKE: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def _network(architecture: str) -> Any:
    import transformers as t

    if architecture == "llama":
        return t.LlamaForCausalLM(t.LlamaConfig(**_LLAMA_LIKE))
    if architecture == "mistral":  # a sliding window in every layer
        return t.MistralForCausalLM(t.MistralConfig(**_LLAMA_LIKE, sliding_window=6))
    if architecture == "qwen2":  # a sliding window in the second layer only, biases
        config = t.Qwen2Config(**_LLAMA_LIKE, use_sliding_window=True, sliding_window=6, max_window_layers=1)
        return t.Qwen2ForCausalLM(config)
    if architecture == "gpt2":  # Conv1D, learned positions, no grouped heads
        return t.GPT2LMHeadModel(
            t.GPT2Config(
                vocab_size=300, n_positions=128, n_embd=64, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2
            )
        )
    if architecture == "gemma2":  # capped scores
        return t.Gemma2ForCausalLM(t.Gemma2Config(**_LLAMA_LIKE, head_dim=16, sliding_window=6))
    if architecture == "gpt_oss":  # attention sinks
        config = t.GptOssConfig(
            **_LLAMA_LIKE, head_dim=16, num_local_experts=4, num_experts_per_tok=2, sliding_window=6
        )
        return t.GptOssForCausalLM(config)
    if architecture == "bloom":  # ALiBi, no position ids, outside the attention interface
        return t.BloomForCausalLM(t.BloomConfig(vocab_size=300, hidden_size=64, n_layer=2, n_head=4, eos_token_id=2))
    raise ValueError(architecture)


@pytest.fixture
def make_model(tiny_tokenizer: PreTrainedTokenizerFast) -> Callable[[str], LanguageModel]:
    """A function from an architecture's name to a small random model that doesn't repeat itself at once."""
    import torch

    from posttrain.models.language_model import LanguageModel

    def make(architecture: str) -> LanguageModel:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            network = _network(architecture).eval()
            with torch.no_grad():
                for parameter in network.parameters():
                    if parameter.dim() > 1:  # scores far enough apart that rounding doesn't decide
                        parameter.mul_(3)
        return LanguageModel(network, tiny_tokenizer, reference=architecture)

    return make


@pytest.fixture
def lively(make_model: Callable[[str], LanguageModel]) -> LanguageModel:
    """The Llama of `make_model`."""
    return make_model("llama")
