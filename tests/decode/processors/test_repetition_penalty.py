"""Repetition penalty: worked by hand and agreement with transformers."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from posttrain.decode.processors import DecodeState
from posttrain.decode.processors.repetition_penalty import RepetitionPenalty

STATE = DecodeState(prompts=[[0, 1]], generated=[[2, 2, 9]])
LOGITS = torch.tensor([[3.0, -3.0, 1.5, 6.0, -torch.inf]])


def test_by_hand() -> None:
    """θ = 1.5: 3 / 1.5 = 2, -3 * 1.5 = -4.5, 1.5 / 1.5 = 1 once though it occurs twice; 9 is no word of the model."""
    penalised = RepetitionPenalty(penalty=1.5)(LOGITS, STATE)
    assert penalised.tolist() == [[2.0, -4.5, 1.0, 6.0, -torch.inf]]


def test_without_the_prompt() -> None:
    penalised = RepetitionPenalty(penalty=1.5, prompt=False)(LOGITS, STATE)
    assert penalised.tolist() == [[3.0, -3.0, 1.0, 6.0, -torch.inf]]


@pytest.mark.parametrize("penalty", [0.7, 1.3])
def test_agrees_with_transformers(penalty: float) -> None:
    from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor

    logits, ids = torch.randn(6, 40), torch.randint(0, 40, (6, 12))
    state = DecodeState(prompts=ids[:, :5].tolist(), generated=ids[:, 5:].tolist())
    for ours, theirs in (
        (RepetitionPenalty(penalty=penalty), RepetitionPenaltyLogitsProcessor(penalty)),
        (RepetitionPenalty(penalty=penalty, prompt=False), RepetitionPenaltyLogitsProcessor(penalty, 5)),
    ):
        torch.testing.assert_close(ours(logits, state), theirs(ids, logits.clone()))


def test_refuses() -> None:
    with pytest.raises(ValidationError):
        RepetitionPenalty(penalty=0)
