"""Prompts, their kinds and their temperatures."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from posttrain.core.errors import BadRequest
from posttrain.decode.processors import DecodeState
from posttrain.decode.processors.prompt_temperature import PromptTemperature


@pytest.mark.parametrize(
    ("prompt", "kind"),
    [
        ("Write a Python function that sorts a list.", "code"),
        ("Tell me a story about a fox.", "creative"),
        ("Invent three slogans for a bakery.", "creative"),
        ("When did the river rise?", "factual"),
        ("What is the capital of France?", "factual"),
        ("How much does a fox weigh?", "factual"),
        ("Say something nice.", None),
        ("The whole decoder is somewhere.", None),  # whole words only
    ],
)
def test_kinds(prompt: str, kind: str | None) -> None:
    found = PromptTemperature().kind(prompt)
    assert (found.name if found else None) == kind


def test_the_first_that_is_found_decides() -> None:
    """A program that writes stories is a program; the order is the user's."""
    assert PromptTemperature().kind("Write a program that tells a story.").name == "code"  # type: ignore[union-attr]
    kinds = [{"name": name, "pattern": name, "temperature": 1} for name in ("story", "program")]
    found = PromptTemperature.parse({"kinds": kinds}).kind("Write a program that tells a story.")
    assert found is not None and found.name == "story"


def test_rows_have_their_own_prompt(tiny_tokenizer: Any) -> None:
    rows = [tiny_tokenizer(text)["input_ids"] for text in ("a poem", "Who sleeps?", "The dog")]
    state = DecodeState(prompts=rows, generated=[[]] * 3, tokenizer=tiny_tokenizer)
    found = PromptTemperature(otherwise=0.5)(torch.tensor([[1.0, 0.0]] * 3), state)
    assert (1 / found[:, 0]).tolist() == pytest.approx([1.0, 0.2, 0.5])


def test_refuses() -> None:
    with pytest.raises(BadRequest, match="tokenizer"):
        PromptTemperature()(torch.zeros(1, 2), DecodeState(prompts=[[1]], generated=[[]]))
