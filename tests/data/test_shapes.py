from __future__ import annotations

from typing import Any

import pytest

from posttrain.core.errors import BadRequest
from posttrain.data.record import (
    Chat,
    Completion,
    Labelled,
    Pair,
    Preference,
    QuestionAnswer,
    Record,
    Tagged,
    Text,
)
from posttrain.data.shapes import build, expand, rename, sniff

USER = {"role": "user", "content": "Hi"}
GOOD = {"role": "assistant", "content": "Hello"}
BAD = {"role": "assistant", "content": "What?"}


def record(row: dict[str, Any], kind: str | None = None) -> Record:
    return build(sniff("f:1", row, kind), "f:1", row)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"text": "a"}, Text("a")),
        ({"content": "a", "path": "x.py"}, Text("a")),
        ({"prompt": "a"}, Text("a")),
        ({"prompt": "p", "completion": "c"}, Completion("p", "c")),
        ({"prompt": "", "completion": "c"}, Completion("", "c")),
        ({"prompt": "p", "completion": "c", "label": False}, Completion("p", "c", False)),
        ({"prompt": "p", "completion": "c", "label": 3}, Completion("p", "c")),
        ({"query": "p", "response": "c"}, Completion("p", "c")),
        ({"question": "p", "answer": "c"}, Completion("p", "c")),
        ({"instruction": "p", "input": "i", "output": "c"}, Completion("p\n\ni", "c")),
        ({"instruction": "p", "input": "", "output": "c"}, Completion("p", "c")),
        ({"instruction": "p", "context": "i", "response": "c"}, Completion("p\n\ni", "c")),
        ({"input": "p", "target": "c"}, Completion("p", "c")),
        (
            {"task_id": "0", "prompt": "def f():\n", "canonical_solution": "    pass"},
            Completion("def f():\n", "    pass"),
        ),
        ({"prompt": [USER], "completion": [GOOD]}, Completion([USER], [GOOD])),
        ({"prompt": [USER], "completion": "Hello"}, Completion([USER], [GOOD])),
        ({"prompt": "Hi", "completion": GOOD}, Completion([USER], [GOOD])),
        ({"messages": [USER, GOOD]}, Chat([USER, GOOD])),
        ({"prompt": "Hi", "messages": [USER, GOOD]}, Chat([USER, GOOD])),
        ({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}, Chat([USER, GOOD])),
        (
            {"messages": [USER], "system": "S", "tools": '[{"a": 1}]'},
            Chat([{"role": "system", "content": "S"}, USER], [{"a": 1}]),
        ),
        ({"messages": [USER, GOOD], "label": True}, Completion([USER], [GOOD], True)),
        ({"prompt": "p", "chosen": "g", "rejected": "b"}, Preference("p", "g", "b")),
        ({"question": "p", "response_j": "g", "response_k": "b"}, Preference("p", "g", "b")),
        ({"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]}, Preference([USER], [GOOD], [BAD])),
        ({"prompt": [USER], "chosen": [USER, GOOD], "rejected": [USER, BAD]}, Preference([USER], [GOOD], [BAD])),
        ({"prompt": "Hi", "chosen": [USER, GOOD], "rejected": [USER, BAD]}, Preference([USER], [GOOD], [BAD])),
        ({"prompt": "Hi", "chosen": [GOOD], "rejected": [BAD]}, Preference([USER], [GOOD], [BAD])),
        ({"chosen": [USER, GOOD], "rejected": [USER, BAD]}, Preference([USER], [GOOD], [BAD])),
        (
            {"conversations": [USER], "chosen": {"from": "gpt", "value": "Hello"}, "rejected": BAD},
            Preference([USER], [GOOD], [BAD]),
        ),
        ({"text": "a", "label": 1}, Labelled("a", 1)),
        ({"sentence": "a", "label": "pos"}, Labelled("a", "pos")),
        ({"text": "a", "labels": ["x", "y"]}, Labelled("a", ["x", "y"])),
        ({"text": "a", "label": True}, Labelled("a", 1)),
        ({"sentence1": "a", "sentence2": "b", "score": 2.5}, Labelled("a", 2.5, "b")),
        ({"premise": "a", "hypothesis": "b", "label": 0}, Labelled("a", 0, "b")),
        ({"tokens": ["A", "b"], "ner_tags": [1, 0]}, Tagged(["A", "b"], [1, 0])),
        ({"tokens": ["A"], "tags": ["O"]}, Tagged(["A"], ["O"])),
        ({"source": "a", "target": "b"}, Pair("a", "b")),
        ({"document": "a", "summary": "b"}, Pair("a", "b")),
        ({"article": "a", "highlights": "b", "id": "1"}, Pair("a", "b")),
        ({"translation": {"en": "a", "de": "b"}}, Pair("a", "b")),
    ],
)
def test_usual_shapes_are_recognized(row: dict[str, Any], expected: Record):
    found = record(row)
    assert found == expected
    assert found.origin == "f:1"


@pytest.mark.parametrize(
    ("answers", "texts", "starts"),
    [
        ({"text": ["Rhine", "the Rhine"], "answer_start": [4, 0]}, ["Rhine", "the Rhine"], [4, 0]),
        ([{"text": "Rhine", "answer_start": 4}], ["Rhine"], [4]),
        ([{"text": "Rhine"}], ["Rhine"], [4]),
        (["Rhine"], ["Rhine"], [4]),
        ("Rhine", ["Rhine"], [4]),
        ({"text": [], "answer_start": []}, [], []),
        ([], [], []),
    ],
)
def test_answers_are_spans_of_the_context(answers: object, texts: list[str], starts: list[int]):
    row = {"question": "Which?", "context": "the Rhine flows", "answers": answers}
    assert record(row) == QuestionAnswer("Which?", "the Rhine flows", texts, starts)


def test_an_answer_may_have_its_start_in_a_column_of_its_own():
    row = {"question": "Which?", "context": "a a", "answer": "a", "answer_start": 2}
    assert record(row) == QuestionAnswer("Which?", "a a", ["a"], [2])


def test_nested_squad_becomes_one_row_per_question():
    paragraph = {"context": "c", "qas": [{"question": "q", "answers": []}, {"question": "r", "answers": []}]}
    rows = list(expand("f:3", {"title": "t", "paragraphs": [paragraph]}))
    assert [(origin, row["question"], row["context"]) for origin, row in rows] == [("f:3", "q", "c"), ("f:3", "r", "c")]
    assert list(expand("f:4", {"text": "a"})) == [("f:4", {"text": "a"})]


def test_transcripts_are_split_at_the_last_turn_they_share():
    """They agree through " S" of the last answer; the answers begin behind the last mark before that."""
    shared = "\n\nHuman: a\n\nAssistant: Yes.\n\nHuman: b\n\nAssistant:"
    row = {"chosen": f"{shared} Sure.", "rejected": f"{shared} Stop."}
    assert record(row) == Preference(shared, " Sure.", " Stop.")


def test_a_longer_answer_of_messages_keeps_its_turns():
    row = {"chosen": [USER, GOOD, USER, GOOD], "rejected": [USER, BAD]}
    assert record(row) == Preference([USER], [GOOD, USER, GOOD], [BAD])


def test_kind_decides_where_columns_would_fit_several():
    row = {"text": "a", "label": 1}
    assert record(row, "text") == Text("a")
    with pytest.raises(BadRequest) as error:
        record(row, "chat")
    assert str(error.value) == (
        "f:1: the columns text, label don't make a record of kind chat. "
        "chat needs messages|conversations|conversation. Name yours with columns, as in columns: {prompt: YOUR_COLUMN}."
    )


def test_unknown_columns_are_listed_with_what_would_fit():
    with pytest.raises(BadRequest) as error:
        record({"Goal": "a", "Target": "b"})
    assert "f:1: the columns Goal, Target don't make a record." in str(error.value)
    assert "completion needs prompt + completion" in str(error.value)
    assert "columns: {prompt: YOUR_COLUMN}" in str(error.value)


def test_columns_rename():
    row = {"Goal": "a", "Target": "b", "id": 1}
    assert rename(row, {"prompt": "Goal", "completion": "Target"}, "f:1") == {"prompt": "a", "completion": "b", "id": 1}
    with pytest.raises(BadRequest, match=r"f:1: there is no column 'Gaol'. Found: Goal, Target, id."):
        rename(row, {"prompt": "Gaol"}, "f:1")
    with pytest.raises(
        BadRequest, match=r"columns: 'promt' is not a column that any kind of record uses\. Did you mean 'prompt'"
    ):
        rename(row, {"promt": "Goal"}, "f:1")


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"text": ""}, "'text' is empty"),
        ({"text": " \n"}, "'text' is empty"),
        ({"text": 3}, "'text' must be text, not a number"),
        ({"text": None}, "'text' must be text, not null"),
        ({"prompt": "p", "completion": ""}, "'completion' is empty"),
        ({"question": {"stem": "p"}, "answer": "c"}, "'question', message 1, has the role None"),
        ({"messages": [USER, {"role": "assistant", "content": " "}]}, "'messages' has an empty answer (message 2)"),
        ({"messages": "Hi"}, "'messages' must be a list of messages, not text"),
        ({"chosen": "a", "rejected": "b"}, "'chosen' and 'rejected' share no 'Assistant:' turn"),
        ({"chosen": [GOOD], "rejected": [BAD]}, "'chosen' and 'rejected' leave no prompt or no answer"),
        ({"text": "a", "label": None}, "'label' must be a class or a number, not null"),
        ({"text": "a", "label": ""}, "'label' must be a class or a number, not empty"),
        ({"text": "a", "label": float("nan")}, "'label' is not a finite number"),
        ({"text": "a", "labels": [0.5]}, "'labels' must hold class names or numbers only"),
        ({"tokens": ["a", "b"], "tags": ["O"]}, "'tags' has 1 entries for 2 tokens"),
        ({"tokens": [], "tags": []}, "'tokens' is empty"),
        ({"tokens": "a b", "tags": ["O"]}, "'tokens' must be a list of words"),
        ({"tokens": ["a"], "tags": [None]}, "'tags' must be a list of tags"),
        ({"question": "q", "context": "abc", "answers": ["d"]}, "'answers' says 'd', which isn't in the context"),
        (
            {"question": "q", "context": "abc", "answers": {"text": ["b"], "answer_start": [0]}},
            "'answers' says 'b', which isn't at character 0 of the context",
        ),
        (
            {"question": "q", "context": "abc", "answers": {"text": ["b"], "answer_start": []}},
            "'answers' needs one whole-number start for each answer",
        ),
        ({"question": "q", "context": "abc", "answers": [3]}, "'answers' must hold the answers' texts"),
        ({"translation": {"en": "a"}}, "'translation' must hold a text in each of two languages"),
        ({"translation": {"en": "a", "de": ""}}, "'de' is empty"),
    ],
)
def test_wrong_values_are_refused_by_line_and_column(row: dict[str, Any], problem: str):
    with pytest.raises(BadRequest) as error:
        record(row)
    assert str(error.value).startswith("f:1: ")
    assert problem in str(error.value)


def test_a_later_row_must_have_the_first_ones_columns():
    shape = sniff("f:1", {"prompt": "p", "completion": "c"}, None)
    with pytest.raises(BadRequest, match=r"f:2: a completion record needs prompt\|.*; found prompt\."):
        build(shape, "f:2", {"prompt": "p"})


def test_a_text_may_mark_spans():
    marked = record({"text": "It rained in Paris.", "spans": [[13, 18]]})
    assert marked == Text("It rained in Paris.", spans=[(13, 18)])
    assert marked != Text("It rained in Paris.")
    # A column of this name that holds something else is another one.
    for other in ([{"start": 13}], "13-18", [[13, 18, "LOC"]], [[True, False]], None):
        assert record({"text": "It rained in Paris.", "spans": other}) == Text("It rained in Paris.")
