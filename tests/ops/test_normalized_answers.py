"""SQuAD's normalisation and F1, by hand."""

from __future__ import annotations

import pytest

from posttrain.ops.answers import normalized, token_f1


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("The  Eiffel Tower!", "eiffel tower"),
        ("an apple, a day", "apple day"),
        ("theatre", "theatre"),
        ("U.S.A.", "usa"),
        ("the", ""),
        ("", ""),
    ],
)
def test_normalized(answer: str, expected: str) -> None:
    assert normalized(answer) == expected


@pytest.mark.parametrize(
    ("predicted", "actual", "expected"),
    [
        ("in the year 1999", "1999", 0.5),  # one word of three, one of one: 2 / 4
        ("cat cat", "cat", 2 / 3),  # counted once
        ("The cat.", "cat", 1.0),
        ("dog", "cat", 0.0),
        ("", "", 1.0),
        ("the", "", 1.0),  # nothing is left of either
        ("", "cat", 0.0),
        ("cat", "", 0.0),
    ],
)
def test_token_f1(predicted: str, actual: str, expected: float) -> None:
    assert token_f1(predicted, actual) == pytest.approx(expected)
