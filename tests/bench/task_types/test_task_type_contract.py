"""Contract of the `task_type` family, checked on every type the folder holds."""

from __future__ import annotations

import json

import pytest

from posttrain.bench.item import Item
from posttrain.bench.question import Question
from posttrain.bench.task_types import Effort
from posttrain.core import catalog
from posttrain.core.errors import BadRequest
from posttrain.core.settings import help_of

VALUES = {"question": "What is the rate?", "good": "three", "bad": "the fox runs on", "answer": 1}
# The settings that each type needs, over items that hold VALUES.
SETTINGS = {
    "multiple_choice": {"prompt": "{{ question }}", "choices": "[bad, good]", "answer": "answer"},
    "partial_context": {"contexts": ["{{ bad }}", "{{ good }}"], "continuation": "{{ question }}", "answer": "answer"},
    "continuation": {"prompt": "{{ question }}", "continuation": "{{ good }}"},
    "generative": {"prompt": "{{ question }}", "answer": "{{ good }}", "max_new_tokens": 5},
    "code": {
        "prompt": "{{ question }}",
        "program": "{{ completion }}",
        "answer": "{{ good }}",
        "id": "question",
        "max_new_tokens": 5,
    },
    "similarity": {"first": "{{ question }}", "second": "{{ good }}", "answer": "answer"},
}


@pytest.fixture(params=catalog.terms("task_type"))
def type_(request):
    """Each type with settings of its own."""
    return catalog.build("task_type", {request.param: SETTINGS[request.param]})


def questions(count=3):
    return [
        Question(Item({**VALUES, "question": f"What is rate {i}?"}, f"f:{i}", "t.yaml"), "The answer is three.\n")
        for i in range(count)
    ]


def test_settings_are_documented(type_):
    assert all(help_of(type(type_)).values())
    assert catalog.build("task_type", catalog.dump(type_)) == type_


def test_replies(type_, tiny_llama):
    """A score for each metric or something to compute one from, and a record, for JSON, that shows the whole prompt."""
    replies = type_.ask(tiny_llama, questions(), Effort(tokens_per_pass=64, batch_size=2))
    assert len(replies) == 3
    assert len(set(type_.measured)) == len(type_.measured)
    assert type_.perplexities <= set(type_.measured)
    for i, reply in enumerate(replies):
        assert tuple(reply.scores) == type_.measured
        assert type_.measured or (reply.predicted is not None and reply.answers)
        for metric, score in reply.scores.items():
            assert score >= 0 and (metric in type_.perplexities or score <= 1)
        assert reply.chance is None or 0 < reply.chance < 1
        assert reply.cut == 0
        written = json.dumps(reply.record, allow_nan=False)
        assert "The answer is three." in written and f"rate {i}" in written


def test_replies_don_t_depend_on_the_batch(type_, tiny_llama):
    whole = type_.ask(tiny_llama, questions(), Effort(tokens_per_pass=4096, batch_size=8))
    single = [type_.ask(tiny_llama, [each], Effort(tokens_per_pass=1, batch_size=1))[0] for each in questions()]
    for one, other in zip(whole, single):
        assert one.scores == pytest.approx(other.scores, abs=1e-5)
        assert one.answers == other.answers


def test_solved_items_hold_question_and_answer(type_):
    (question,) = questions(1)
    if not type_.measured:  # texts that are looked at as they are can have no examples before them
        with pytest.raises(BadRequest, match="no examples"):
            type_.solved(question.item)
        return
    text = type_.solved(question.item).text
    assert "What is rate 0?" in text and "three" in text
    assert "the fox runs on" not in text


def test_a_template_that_fails_is_named(type_, tiny_llama):
    item = Item({"other": 1}, "f.jsonl:7", "t.yaml")
    solved = [lambda: type_.solved(item)] if type_.measured else []
    for failing in (*solved, lambda: type_.ask(tiny_llama, [Question(item, "")], Effort(64, 1))):
        with pytest.raises(BadRequest, match=r"t.yaml: '\w+' doesn't work for f.jsonl:7: UndefinedError"):
            failing()
