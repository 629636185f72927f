"""Presence penalty: worked by hand, whether or not a token occurs often."""

from __future__ import annotations

import torch

from posttrain.decode.processors import DecodeState
from posttrain.decode.processors.presence_penalty import PresencePenalty

STATE = DecodeState(prompts=[[0], [3, 3]], generated=[[1, 1, 2], []])
LOGITS = torch.tensor([[1.0, 2.0, -1.0, 4.0], [1.0, 2.0, -1.0, -torch.inf]])


def test_by_hand() -> None:
    """0.5 off tokens 1 and 2 of the first row; the second has generated nothing."""
    assert PresencePenalty(penalty=0.5)(LOGITS, STATE).tolist() == [[1.0, 1.5, -1.5, 4.0], [1.0, 2.0, -1.0, -torch.inf]]


def test_with_the_prompt() -> None:
    found = PresencePenalty(penalty=-0.5, prompt=True)(LOGITS, STATE)
    assert found.tolist() == [[1.5, 2.5, -0.5, 4.0], [1.0, 2.0, -1.0, -torch.inf]]
