"""Records written and read again."""

from __future__ import annotations

import pytest

from posttrain.data import dataset
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
from posttrain.data.writing import row, write, write_rows

TURNS = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]


@pytest.mark.parametrize(
    "record",
    [
        Text("ä\nb"),
        Text("ab", spans=[(0, 1)]),
        Completion("p", "c"),
        Completion("p", "c", True),
        Completion(TURNS[:1], TURNS[1:]),
        Chat(TURNS),
        Preference("p", "a", "b"),
        Preference(TURNS[:1], TURNS[1:], [{"role": "assistant", "content": "no"}]),
        Labelled("t", "good"),
        Labelled("t", 0.5, "u"),
        Labelled("t", ["a", "b"]),
        Tagged(["a", "b"], ["O", "B"]),
        QuestionAnswer("q", "a b", ["b"], [2]),
        QuestionAnswer("q", "a b", [], []),
        Pair("s", "t"),
    ],
)
def test_each_kind_comes_back(record: Record, tmp_path):
    path = tmp_path / "records.jsonl"
    write([record, record], path)
    assert dataset.read(path).records == [record, record]
    assert path.read_text(encoding="utf-8").count("\n") == 2
    assert "origin" not in row(record)


def test_rows_are_written_one_a_line(tmp_path):
    write_rows(({"text": text, "value": float("nan")} for text in ("é", "b\nc")), tmp_path / "rows.jsonl")
    lines = (tmp_path / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    assert lines == ['{"text": "é", "value": null}', '{"text": "b\\nc", "value": null}']
