"""What processors are given of the rows, and how they forbid."""

from __future__ import annotations

import torch

from posttrain.decode.processors import DecodeState, forbid

CPU = torch.device("cpu")
STATE = DecodeState(prompts=[[1, 2, 3], [4], []], generated=[[5], [6, 7], []])


def test_tokens_are_aligned_on_the_right() -> None:
    assert STATE.tokens(True, CPU).tolist() == [[1, 2, 3, 5], [-1, 4, 6, 7], [-1, -1, -1, -1]]
    assert STATE.tokens(False, CPU).tolist() == [[-1, 5], [6, 7], [-1, -1]]
    assert DecodeState(prompts=[], generated=[]).tokens(True, CPU).shape == (0, 0)


def test_occurrences() -> None:
    """Of the model's six words 0 to 5."""
    scores = torch.zeros(3, 6)
    rows, tokens = STATE.occurrences(True, scores)
    assert (rows.tolist(), tokens.tolist()) == ([0, 0, 0, 0, 1], [1, 2, 3, 5, 4])
    rows, tokens = STATE.occurrences(False, scores)
    assert (rows.tolist(), tokens.tolist()) == ([0], [5])


def test_last_tokens() -> None:
    assert [STATE.last(0, count) for count in (0, 1, 2, 4, 9)] == [(), (5,), (3, 5), (1, 2, 3, 5), (1, 2, 3, 5)]
    assert [STATE.last(1, count) for count in (2, 3)] == [(6, 7), (4, 6, 7)]
    assert STATE.last(2, 3) == ()


def test_a_row_that_would_lose_all_keeps_what_it_had() -> None:
    scores = torch.tensor([[1.0, 2.0, -torch.inf], [3.0, 4.0, 5.0]])
    forbidden = torch.tensor([[True, True, False], [True, False, False]])
    assert forbid(scores, forbidden).tolist() == [[1.0, 2.0, -torch.inf], [-torch.inf, 4.0, 5.0]]
