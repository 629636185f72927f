"""Sizes and facts of a model, counted by hand on the tiny Llama.

Embedding 300·64 = 19,200, tied to the head. One layer: queries and outputs 2·64·64 = 8,192, keys and values
2·64·32 = 4,096, MLP 3·64·128 = 24,576, two norms 128: 36,992. Two layers and the last norm of 64: 93,248 in all.
"""

from __future__ import annotations

import pytest
import torch

from posttrain.models.language_model import LanguageModel


def test_parameters_are_counted_once_although_the_head_is_tied(tiny_llama: LanguageModel) -> None:
    assert tiny_llama.parameter_count() == 93_248
    assert "lm_head.weight" in tiny_llama.network.state_dict()


def test_bytes_count_parameters_and_buffers(tiny_llama: LanguageModel) -> None:
    buffers = sum(buffer.numel() for buffer in tiny_llama.network.buffers())
    # The rotary frequencies: half of the head width of 16, and a copy of them.
    assert buffers in (8, 16)
    assert tiny_llama.nbytes() == 4 * (93_248 + buffers)


def test_untied_head_counts_twice(tiny_llama: LanguageModel) -> None:
    head = tiny_llama.network.lm_head
    head.weight = torch.nn.Parameter(head.weight.detach().clone())
    assert tiny_llama.parameter_count() == 93_248 + 19_200


def test_facts(tiny_llama: LanguageModel) -> None:
    assert tiny_llama.context_length == 128
    assert tiny_llama.device == torch.device("cpu")
    assert tiny_llama.is_causal


def test_positions_before_the_first_one_are_no_context() -> None:
    """RoBERTa counts positions on from its padding token's id, 1: of 34 rows of the table 32 are used, not one more."""
    from transformers import RobertaConfig, RobertaModel

    config = RobertaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=34,
        pad_token_id=1,
    )
    model = LanguageModel(RobertaModel(config).eval(), None)  # type: ignore[arg-type]
    assert model.context_length == 32
    with torch.no_grad():
        model.network(torch.full((1, 32), 5))
        with pytest.raises((IndexError, RuntimeError)):
            model.network(torch.full((1, 33), 5))


def test_encoder_is_not_causal(tiny_llama: LanguageModel) -> None:
    encoder = LanguageModel(tiny_llama.network.model, tiny_llama.tokenizer)
    assert not encoder.is_causal
