"""Majority: what counts as an answer, and the votes."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from posttrain.decode.rerankers.majority import Majority
from posttrain.decode.sequence import Ending, Generated


def scores(model: Any, majority: Majority, texts: list[str]) -> list[float]:
    answers = [Generated(0, i, [5], Ending(999), model.tokenizer) for i in range(len(texts))]
    for answer, text in zip(answers, texts):
        for token in model.tokenizer(text)["input_ids"]:
            answer.append(token, 0.0)
    return majority.scores(model, "How much?", answers)


def test_votes_by_hand(tiny_llama: Any) -> None:
    """12, 7, 12.0 and no answer: two, one, two and none of four."""
    texts = ["First 3, so it is 12.", "I say 7", "3 + 9 = 12.0", "I don't know."]
    assert scores(tiny_llama, Majority(), texts) == [0.5, 0.25, 0.5, 0.0]


@pytest.mark.parametrize(
    ("pattern", "text", "answer"),
    [
        (None, "It costs 1,234.50 in all.", 1234.5),
        (None, "from 10 to -3", -3.0),
        (None, "none", None),
        (r"#### (\S+)", "1 + 1 = 2\n#### 2", 2.0),
        (r"#### (\S+)", "1 + 1 = 2", None),
        (r"(?i)the answer is \(?([a-d])", "Hm. The answer is (B).", "b"),
        (r"the answer is (.+)", "the answer is  New   York", "new york"),
        (r"(yes)|no", "no", None),  # the group took no part
    ],
)
def test_the_answer_of_a_text(pattern: str | None, text: str, answer: Any) -> None:
    majority = Majority() if pattern is None else Majority(pattern=pattern)
    assert majority.answer(text) == answer


def test_refuses() -> None:
    with pytest.raises(ValidationError, match="regular expression"):
        Majority(pattern="(")
