"""Spans are compared as the text they cut out of the rendered conversation."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from posttrain.core.errors import BadRequest
from posttrain.data.assistant_spans import assistant_spans
from posttrain.data.record import Dialogue

MESSAGES: Dialogue = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Bye"},
    {"role": "assistant", "content": "Ciao"},
]
SPECIAL = ["<end>", "<eos>", "<user>", "<model>"]


def cut(draw: Callable[[Dialogue, bool], str], messages: Dialogue = MESSAGES, has_header: bool = True) -> list[str]:
    full = draw(messages, False)
    learned = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
    spans = assistant_spans(messages, learned, full, draw, has_header=has_header, special_tokens=SPECIAL)
    return [full[start:end] for start, end in spans]


def turns(messages: Dialogue, end: str = "<end>\n") -> str:
    names = {"user": "<user>", "assistant": "<model>"}
    return "".join(f"{names[m['role']]}{m['content']}{end}" for m in messages)


def test_prefix_stable():
    assert cut(lambda m, header: turns(m) + "<model>" * header) == ["Hello<end>\n", "Ciao<end>\n"]


def test_a_template_without_generation_prompt_keeps_its_header_out():
    assert cut(lambda m, _: turns(m), has_header=False) == ["Hello<end>\n", "Ciao<end>\n"]


def test_a_header_longer_than_the_one_rendered_is_found_by_marker():
    """The generation prompt opens a thought that full conversations don't have."""
    assert cut(lambda m, header: turns(m) + "<model><think>" * header) == ["Hello<end>\n", "Ciao<end>\n"]


def test_a_final_token_after_the_last_turn_only():
    """<user> and <eos> begin alike, but the first turn's end stops before them."""
    assert cut(lambda m, header: turns(m) + ("<model>" if header else "<eos>")) == ["Hello<end>\n", "Ciao<end>\n<eos>"]


def test_another_end_for_the_last_turn():
    """Inner turns close with <end>, the last with <eos>: they share nothing, so the first special token closes."""

    def draw(messages: Dialogue, header: bool) -> str:
        text = turns(messages, "<end>")
        return text + "<model>" if header else text.removesuffix("<end>") + "<eos>"

    assert cut(draw) == ["Hello<end>", "Ciao<eos>"]


def test_earlier_thoughts_are_stripped():
    def draw(messages: Dialogue, header: bool) -> str:
        kept = [{**m, "content": m["content"].split("|")[-1]} for m in messages[:-1]] + messages[-1:]
        return turns(kept) + "<model>" * header

    thoughtful = [{**m, "content": "hm|" + m["content"]} if m["role"] == "assistant" else m for m in MESSAGES]
    assert cut(draw, thoughtful) == ["Hello<end>\n", "hm|Ciao<end>\n"]


def test_a_turn_that_nothing_closes_ends_with_its_content():
    assert cut(lambda m, header: turns(m, "") + "<model>" * header) == ["Hello", "Ciao"]
    assert cut(lambda m, header: turns(m, "") + "<model><think>" * header) == ["Hello", "Ciao"]


def test_trimmed_content():
    padded = [{**m, "content": f" {m['content']} "} for m in MESSAGES]

    def draw(messages: Dialogue, header: bool) -> str:
        return turns([{**m, "content": m["content"].strip()} for m in messages]) + ("<model>" if header else "<eos>")

    assert cut(draw, padded) == ["Hello<end>\n", "Ciao<end>\n<eos>"]


def test_a_conversation_that_begins_with_the_assistant():
    assert cut(lambda m, header: "<bos>" + turns(m) + "<model>" * header, MESSAGES[1:]) == [
        "Hello<end>\n",
        "Ciao<end>\n",
    ]


def test_a_template_that_refuses_parts_of_a_conversation():
    def draw(messages: Dialogue, header: bool) -> str:
        if messages[-1]["role"] == "user":
            raise BadRequest("the last message must be the assistant's")
        return turns(messages)

    assert cut(draw) == ["Hello<end>\n", "Ciao<end>\n"]


@pytest.mark.parametrize(
    "draw",
    [
        lambda m, header: turns(m).upper() + f"{len(turns(m))}",  # depends on all contents, markers are changed
        lambda m, header: f"{len(turns(m))}" + turns(m),  # begins differently for each content
        lambda m, header: (
            turns([x for x in m if x["role"] == "user"]) + ("" if header else "<eos>")
        ),  # drops the assistant
    ],
)
def test_what_can_not_be_located_is_refused(draw: Callable[[Dialogue, bool], str]):
    with pytest.raises(
        BadRequest, match=r"doesn't show where message 2 begins and ends\. Put \{% generation %\} marks"
    ):
        cut(draw)
