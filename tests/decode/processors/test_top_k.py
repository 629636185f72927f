"""Top-k: worked by hand and agreement with transformers."""

from __future__ import annotations

import pytest
import torch

from posttrain.decode.processors import DecodeState
from posttrain.decode.processors.top_k import TopK

NOTHING = DecodeState(prompts=[], generated=[])
NEVER = -torch.inf


def test_by_hand() -> None:
    logits = torch.tensor([[0.1, 0.4, 0.3, 0.2], [4.0, 3.0, 2.0, 1.0]])
    assert TopK(k=2)(logits, NOTHING).tolist() == [
        [NEVER, pytest.approx(0.4), pytest.approx(0.3), NEVER],
        [4.0, 3.0, NEVER, NEVER],
    ]


def test_ties_with_the_last_kept_are_kept() -> None:
    assert TopK(k=2)(torch.tensor([[3.0, 2.0, 2.0, 1.0]]), NOTHING).tolist() == [[3.0, 2.0, 2.0, NEVER]]


def test_fewer_allowed_than_asked_for() -> None:
    logits = torch.tensor([[NEVER, 1.0, NEVER, 2.0]])
    assert torch.equal(TopK(k=3)(logits, NOTHING), logits)
    assert torch.equal(TopK(k=100)(logits, NOTHING), logits)


@pytest.mark.parametrize("k", [1, 3, 39])
def test_agrees_with_transformers(k: int) -> None:
    from transformers.generation.logits_process import TopKLogitsWarper

    logits = torch.randn(8, 40).round(decimals=1)  # ties
    assert torch.equal(TopK(k=k)(logits, NOTHING), TopKLogitsWarper(k)(None, logits))
