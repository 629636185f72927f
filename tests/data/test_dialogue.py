from __future__ import annotations

import pytest

from posttrain.core.errors import BadRequest
from posttrain.data.dialogue import as_dialogue, as_text, as_tools


def test_sharegpt_and_openai_become_the_same():
    sharegpt = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
    openai = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    assert as_dialogue(sharegpt, "f:1") == as_dialogue(openai, "f:1") == openai


def test_tool_turns_keep_what_the_template_needs():
    call = {"role": "assistant", "content": None, "tool_calls": [{"name": "f"}], "name": None}
    assert as_dialogue([call], "f:1") == [{"role": "assistant", "content": "", "tool_calls": [{"name": "f"}]}]
    assert [
        m["role"]
        for m in as_dialogue([{"from": "function_call", "value": "x"}, {"from": "observation", "value": "y"}], "")
    ] == [
        "assistant",
        "tool",
    ]


def test_text_parts_are_joined_and_images_refused():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert as_dialogue([{"role": "user", "content": parts}], "f:1") == [{"role": "user", "content": "ab"}]
    with pytest.raises(BadRequest, match=r"f:1, message 1, must have text"):
        as_dialogue([{"role": "user", "content": [{"type": "image"}]}], "f:1")


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("Hi", "must be a list of messages, not text"),
        ([], "must be a list of messages, not an empty list"),
        ([{"role": "asistant", "content": "x"}], "message 1, has the role 'asistant'. Did you mean 'assistant'"),
        ([{"role": "user", "content": "x"}, {"role": "user"}], "message 2, must have text as its content, not null"),
    ],
)
def test_what_is_not_messages_is_refused(value: object, problem: str):
    with pytest.raises(BadRequest) as error:
        as_dialogue(value, "f:7: 'messages'")
    assert str(error.value).startswith("f:7: 'messages'")
    assert problem in str(error.value)


def test_tools_come_as_json_or_as_a_list():
    assert as_tools('[{"name": "f"}]', "f:1") == as_tools([{"name": "f"}], "f:1") == [{"name": "f"}]
    assert as_tools(None, "f:1") is as_tools("", "f:1") is as_tools([], "f:1") is as_tools("[]", "f:1") is None
    with pytest.raises(BadRequest, match="f:1: 'tools' is not valid JSON"):
        as_tools("[{", "f:1")
    with pytest.raises(BadRequest, match="f:1: 'tools' must be a list of objects, not an object"):
        as_tools({"name": "f"}, "f:1")


def test_for_the_eye():
    assert as_text("x") == "x"
    assert as_text([{"role": "assistant", "content": "x"}]) == "x"
    assert as_text([{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]) == (
        "user: x\n\nassistant: y"
    )
