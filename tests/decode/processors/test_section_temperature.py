"""Sections of a text and their temperatures."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from posttrain.core.errors import BadRequest
from posttrain.decode.processors import DecodeState
from posttrain.decode.processors.section_temperature import SectionTemperature

QUOTED = {"begins": '"', "ends": '"', "temperature": 2.0}
FACTS = {"begins": "Facts:", "temperature": 0.2}
STORY = {"begins": "Story:", "temperature": 1.5}


def processor(*sections: dict[str, Any], otherwise: float = 1.0) -> SectionTemperature:
    return SectionTemperature.parse({"sections": list(sections), "otherwise": otherwise})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 0.7),
        ("He said", 0.7),
        ('He said "', 2.0),
        ('He said "no', 2.0),
        ('He said "no"', 0.7),
        ('He said "no" and "', 2.0),
        ("Facts:", 0.2),
        ("Facts: one\nStory: once", 1.5),
        ("Story: once\nFacts: one", 0.2),
        ('Facts: "', 2.0),  # the last one that was opened
        ('Facts: "a" b', 0.2),  # the outer one goes on
        ('"Facts: one', 0.2),
        ("Facts: Story: Facts:", 0.2),  # opened again
    ],
)
def test_by_hand(text: str, expected: float) -> None:
    assert processor(QUOTED, FACTS, STORY, otherwise=0.7).temperature(text) == expected


def test_marks_that_match_nothing_end_too() -> None:
    assert processor({"begins": "^", "ends": "$", "temperature": 3}).temperature("abc") == 1.0


def test_rows_have_their_own_text(tiny_tokenizer: Any) -> None:
    rows = [tiny_tokenizer(text)["input_ids"] for text in ("Facts: the dog", "The dog", 'a "')]
    state = DecodeState(prompts=[[1]] * 3, generated=rows, tokenizer=tiny_tokenizer)
    found = processor(QUOTED, FACTS)(torch.tensor([[1.0, 0.0]] * 3), state)
    assert (1 / found[:, 0]).tolist() == pytest.approx([0.2, 1.0, 2.0])


def test_refuses() -> None:
    with pytest.raises(BadRequest, match="regular expression"):
        processor({"begins": "(", "temperature": 1})
    with pytest.raises(BadRequest, match="tokenizer"):
        processor(FACTS)(torch.zeros(1, 2), DecodeState(prompts=[[1]], generated=[[]]))
