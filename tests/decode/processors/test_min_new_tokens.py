"""Fewest new tokens: worked by hand and agreement with transformers."""

from __future__ import annotations

from typing import Any

import torch

from posttrain.decode.generation import generate
from posttrain.decode.processors import DecodeState
from posttrain.decode.processors.min_new_tokens import MinNewTokens
from posttrain.decode.search.sampling import Sampling


def test_by_hand() -> None:
    """Of two the first row has one and the second two; prompts don't count."""
    logits = torch.tensor([[0.0, 1.0, 2.0], [0.0, 1.0, 2.0]])
    state = DecodeState(prompts=[[0, 0, 0], [0]], generated=[[1], [1, 1]], eos_ids=frozenset({0, 2, 9}))
    assert MinNewTokens(count=2)(logits, state).tolist() == [[-torch.inf, 1.0, -torch.inf], [0.0, 1.0, 2.0]]


def test_something_is_left() -> None:
    logits = torch.tensor([[-torch.inf, 1.0]])
    state = DecodeState(prompts=[[0]], generated=[[]], eos_ids=frozenset({1}))
    assert MinNewTokens(count=2)(logits, state).tolist() == logits.tolist()


def test_agrees_with_transformers() -> None:
    from transformers.generation.logits_process import MinNewTokensLengthLogitsProcessor

    ids, logits = torch.randint(0, 20, (3, 7)), torch.randn(3, 20)
    state = DecodeState(prompts=ids[:, :4].tolist(), generated=ids[:, 4:].tolist(), eos_ids=frozenset({2, 5}))
    for count in (0, 3, 4):
        expected = MinNewTokensLengthLogitsProcessor(4, count, [2, 5])(ids, logits)
        torch.testing.assert_close(MinNewTokens(count=count)(logits, state), expected)


def test_texts_are_long_enough(lively: Any) -> None:
    drawn = {"search": Sampling(num_samples=64, temperature=9.0), "max_new_tokens": 30, "seed": 1}
    free = [len(g.token_ids) for g in generate(lively, [[70]], **drawn).generations]
    bound = [
        len(g.token_ids) for g in generate(lively, [[70]], processors=[MinNewTokens(count=30)], **drawn).generations
    ]
    assert min(free) < 30
    assert bound == [30] * 64
