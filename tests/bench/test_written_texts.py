"""Writing for tasks: what generation writes, prompts cut at their beginning to leave room."""

from __future__ import annotations

import pytest

from posttrain.bench.likelihood import encode_texts
from posttrain.bench.writing import write
from posttrain.core.catalog import build
from posttrain.core.errors import BadRequest
from posttrain.decode.generation import generate
from posttrain.models.language_model import LanguageModel


def test_a_long_prompt_is_continued_from_its_end(tiny_llama: LanguageModel) -> None:
    prompts = ["The fox runs", "The fox runs on. " * 60]
    short, long = encode_texts(tiny_llama, prompts)
    search, room = build("search", "greedy"), tiny_llama.context_length - 8
    texts, cut = write(tiny_llama, prompts, search=search, max_new_tokens=8, stop=[], batch_size=1)
    assert cut == [0, len(long) - room]
    expected = generate(tiny_llama, [short, long[-room:]], search=search, max_new_tokens=8, batch_size=1)
    assert texts == [[each.text] for each in expected.generations]


def test_no_room_for_the_answer(tiny_llama: LanguageModel) -> None:
    limit = tiny_llama.context_length
    with pytest.raises(BadRequest, match=f"lets the model write {limit} tokens"):
        write(tiny_llama, ["The"], search=build("search", "greedy"), max_new_tokens=limit, stop=[], batch_size=1)
