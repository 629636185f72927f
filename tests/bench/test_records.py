"""Records of items read back, and metrics computed again from them."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from posttrain.bench import records
from posttrain.bench.task import Task
from posttrain.core.errors import BadRequest

TASK = {
    "summary": "A test.",
    "version": "1",
    "license": "free",
    "homepage": "https://example.org",
    "data": {"test": [{"files": ["a.jsonl"]}]},
    "split": "test",
    "type": {"continuation": {"prompt": "{{ p }}", "continuation": "{{ c }}"}},
}


def record(number=0, **scores):
    return {"task": "own", "origin": f"a.jsonl:{number + 1}", "prompt": f"p{number}", "scores": scores}


def test_means_and_perplexities():
    task = Task.parse(TASK)
    given = [record(0, acc=1.0, perplexity=2.0), record(1, acc=0.0, perplexity=4.0), record(2, acc=None, perplexity=0)]
    (acc,) = records.rows(task, "acc", given)
    assert acc.items.tolist() == [[1, 1], [0, 1], [0, 0]]
    assert (acc.counted, acc.is_mean) == (2, True)
    assert acc.figure(acc.items[None]).tolist() == [0.5]
    assert acc.of_sums(np.array([[1, 2], [2, 2]])).tolist() == [0.5, 1]
    (perplexity,) = records.rows(task, "perplexity", given)
    assert perplexity.figure(perplexity.items[None])[0] == pytest.approx(math.exp(2))
    assert not perplexity.is_mean


def test_metrics_of_all_answers():
    """Matthews' correlation of two systems, over the classes that either predicts."""
    task = Task.parse({**TASK, "corpus_metrics": {"mcc": {"classification": {"score_by": "mcc"}}}})
    right = ["a", "b", "a", "b"]
    one = [{**record(i), "predicted": said, "answers": [right[i]]} for i, said in enumerate(["a", "b", "a", "a"])]
    other = [{**record(i), "predicted": said, "answers": [right[i]]} for i, said in enumerate(["a", "c", "b", "b"])]
    ours, theirs = records.rows(task, "mcc", one, other)
    assert ours.items.shape == theirs.items.shape
    assert ours.counted == 4
    # 2x2 with 2, 0, 1, 1: (2·1 - 0·1) / √(2·2·3·1) = 0.5774.
    assert ours.figure(ours.items[None])[0] == pytest.approx(2 / math.sqrt(12))
    (alone,) = records.rows(task, "mcc", one)
    assert alone.figure(alone.items[None])[0] == pytest.approx(2 / math.sqrt(12))
    with pytest.raises(BadRequest, match=r"a\.jsonl:1 doesn't say what was predicted, which mcc needs"):
        records.rows(task, "mcc", [record()])


def test_a_missing_score_is_named():
    with pytest.raises(BadRequest, match=r"record of a\.jsonl:2 has no score in acc"):
        records.rows(Task.parse(TASK), "acc", [record(acc=1), record(1)])


def test_what_was_asked():
    given = {**record(acc=1), "member": "m", "choices": ["a"], "logprobs": [1.0], "chosen": {"acc": 0}, "text": "x"}
    assert records.asked(given) == {"member": "m", "prompt": "p0", "choices": ["a"]}


def test_reading(tmp_path):
    path = tmp_path / "items.jsonl"
    rows = [record(acc=1.0), {**record(acc=None), "task": "other"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert records.read(path) == {"own": [rows[0]], "other": [rows[1]]}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "holds no records"),
        ('{"text": "x"}\n', r"items\.jsonl:1: this is no record of a benchmark item"),
        ('{"task": "a", "origin": "b"}\n', r"items\.jsonl:1: the record's scores must be numbers"),
        ('{"task": "a", "origin": "b", "scores": {"acc": NaN}}\n', "must be numbers or null"),
        ('{"task": "a", "origin": "b", "scores": {"acc": "1"}}\n', "must be numbers or null"),
        ("{\n", "not valid JSON"),
    ],
)
def test_refusals(tmp_path, text, sentence):
    path = tmp_path / "items.jsonl"
    path.write_text(text)
    with pytest.raises(BadRequest, match=sentence):
        records.read(path)
    with pytest.raises(BadRequest, match="There is no file"):
        records.read(tmp_path / "none.jsonl")
