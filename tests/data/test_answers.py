"""Records with answers."""

from __future__ import annotations

import pytest

from posttrain.core.errors import BadRequest
from posttrain.data.answers import answer_bytes, answered
from posttrain.data.record import Chat, Completion, Pair, Text


def test_a_source_with_its_target_is_a_completion():
    found = answered(Pair("a", "b", "x:1"))
    assert found == Completion("a", "b") and found.origin == "x:1"
    chat = Chat([{"role": "user", "content": "a"}])
    assert answered(chat) is chat
    with pytest.raises(BadRequest, match="x:2: a text record has no answer"):
        answered(Text("a", "x:2"))


def test_only_answers_have_a_size():
    """é has two bytes; of a conversation the assistant's two messages count."""
    assert answer_bytes(Completion("question", "é!")) == 3
    turns = [{"role": r, "content": c} for r, c in (("user", "long"), ("assistant", "ab"), ("assistant", "c"))]
    assert answer_bytes(Chat(turns)) == 3
    assert answer_bytes(Completion(turns[:1], turns[1:])) == 3
    assert answer_bytes(Chat([{"role": "assistant", "content": None, "tool_calls": []}])) is None
