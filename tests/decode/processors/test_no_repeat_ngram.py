"""No repeated n-grams: worked by hand, agreement with transformers, rows of unequal length."""

from __future__ import annotations

import pytest
import torch

from posttrain.decode.processors import DecodeState
from posttrain.decode.processors.no_repeat_ngram import NoRepeatNgram


def forbidden(n: int, prompt: list[int], generated: list[int], words: int = 6) -> list[int]:
    state = DecodeState(prompts=[prompt], generated=[generated])
    return (NoRepeatNgram(n=n)(torch.zeros(1, words), state)[0] == -torch.inf).nonzero().flatten().tolist()


def test_by_hand() -> None:
    """1 2 3 1 2: after 1 2 came 3; after 2 came 3. 4 4 4: after 4 came 4, though the last 4 has no successor yet."""
    assert forbidden(3, [1, 2], [3, 1, 2]) == [3]
    assert forbidden(2, [1, 2], [3, 1, 2]) == [3]
    assert forbidden(1, [1, 2], [3, 1, 2]) == [1, 2, 3]
    assert forbidden(4, [1, 2], [3, 1, 2]) == []
    assert forbidden(2, [4], [4, 4]) == [4]
    assert forbidden(2, [1], []) == []
    assert forbidden(2, [9, 1], [9]) == [1]
    assert forbidden(2, [1, 9], [1]) == []  # 9 is no word of the model


def test_something_is_left() -> None:
    assert forbidden(1, [0, 1, 2], [3, 4, 5]) == []


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_agrees_with_transformers(n: int) -> None:
    """Few words, so that much is repeated; together the rows are of unequal length, alone they are as they are."""
    from transformers.generation.logits_process import NoRepeatNGramLogitsProcessor

    rows = [torch.randint(0, 4, (length,)).tolist() for length in (1, 2, 3, 4, 9, 20, 40)]
    logits = torch.randn(len(rows), 8)
    state = DecodeState(prompts=[row[:2] for row in rows], generated=[row[2:] for row in rows])
    found = NoRepeatNgram(n=n)(logits, state)
    for row, ids in enumerate(rows):
        expected = NoRepeatNGramLogitsProcessor(n)(torch.tensor([ids]), logits[row : row + 1])
        torch.testing.assert_close(found[row], expected[0])
