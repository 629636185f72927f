"""Frequency penalty: worked by hand, and a count by another way."""

from __future__ import annotations

from collections import Counter

import torch

from posttrain.decode.processors import DecodeState
from posttrain.decode.processors.frequency_penalty import FrequencyPenalty

STATE = DecodeState(prompts=[[0], [3, 3]], generated=[[1, 1, 2], []])
LOGITS = torch.tensor([[1.0, 2.0, -1.0, 4.0], [1.0, 2.0, -1.0, -torch.inf]])


def test_by_hand() -> None:
    """Token 1 was generated twice: 2 - 2 * 0.5 = 1; token 2 once: -1 - 0.5 = -1.5."""
    found = FrequencyPenalty(penalty=0.5)(LOGITS, STATE)
    assert found.tolist() == [[1.0, 1.0, -1.5, 4.0], [1.0, 2.0, -1.0, -torch.inf]]


def test_many_rows() -> None:
    logits, ids = torch.randn(5, 20), torch.randint(0, 20, (5, 30)).tolist()
    state = DecodeState(prompts=[row[: i + 1] for i, row in enumerate(ids)], generated=[r[6:] for r in ids])
    for prompt in (False, True):
        found = FrequencyPenalty(penalty=0.3, prompt=prompt)(logits, state)
        for row in range(5):
            held = state.generated[row] + (state.prompts[row] if prompt else [])  # type: ignore[operator]
            counts = torch.tensor([float(Counter(held)[token]) for token in range(20)])
            torch.testing.assert_close(found[row], logits[row] - 0.3 * counts)
