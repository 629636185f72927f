"""Likelihood: worked by hand."""

from __future__ import annotations

from typing import Any

import pytest

from posttrain.decode.rerankers.likelihood import Likelihood
from posttrain.decode.sequence import Ending, Generated


def test_by_hand(tiny_llama: Any) -> None:
    """-3 over 3 tokens and -1.6 over 1: in the mean -1 against -1.6, in all -3 against -1.6, by the root -1.73."""
    long, short = (Generated(0, i, [5], Ending(9), tiny_llama.tokenizer) for i in range(2))
    for token in (70, 71, 72):
        long.append(token, -1.0)
    short.append(70, -1.6)

    def scores(length_penalty: float) -> list[float]:
        return Likelihood(length_penalty=length_penalty).scores(tiny_llama, "", [long, short])

    assert scores(1.0) == pytest.approx([-1.0, -1.6])
    assert scores(0.0) == pytest.approx([-3.0, -1.6])
    assert scores(0.5) == pytest.approx([-(3**0.5), -1.6])
