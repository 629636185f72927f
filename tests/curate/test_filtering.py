"""Filtering: each rule by hand on given scores, and rows that read again as the same records."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from posttrain.core.errors import BadRequest
from posttrain.curate.filtering import Rule, as_row, judge, write_texts
from posttrain.curate.outliers import ReferenceSet
from posttrain.curate.text_scores import TextScore
from posttrain.data import dataset
from posttrain.data.record import Record


def score(perplexity: float, size: int = 4, tokens: int = 2) -> TextScore:
    return TextScore(tokens * math.log(perplexity), tokens, size, 0)


SCORES = [score(10), score(40), score(20), score(80), score(20)]


def kept(rule: dict[str, Any], reference: ReferenceSet | None = None) -> list[int]:
    return [n for n, each in enumerate(judge(SCORES, Rule(**rule), reference)) if each.dropped_by is None]


@pytest.mark.parametrize(
    ("rule", "right"),
    [
        ({"max_perplexity": 40.001}, [0, 1, 2, 4]),
        ({"between": (15, 50)}, [1, 2, 4]),
        ({"keep": 0.6}, [0, 2, 4]),
        ({"keep": 0.4}, [0, 2]),  # of two equal ones the first
        ({"keep": 0.01}, [0]),  # always one
        ({"keep": 1.0}, [0, 1, 2, 3, 4]),
        ({"keep": 0.8, "between": (15, 100)}, [1, 2, 4]),
        ({}, [0, 1, 2, 3, 4]),
    ],
)
def test_rules(rule: dict[str, Any], right: list[int]) -> None:
    assert kept(rule) == right


def test_bits_per_byte_may_decide() -> None:
    """The second text has twice the nats a token of the first, but four times the bytes."""
    scores = [score(10, size=2), score(100, size=8)]
    told = judge(scores, Rule(keep=0.5, by="bits_per_byte"))
    assert [each.dropped_by is None for each in told] == [False, True]
    assert told[0].dropped_by == "bits per byte 3.322 not among the lowest 50%"


def test_reasons() -> None:
    assert judge([score(512)], Rule(max_perplexity=100))[0].dropped_by == "perplexity 512 > 100"
    assert judge([score(8)], Rule(between=(20, 90)))[0].dropped_by == "perplexity 8 outside 20 to 90"
    reference = ReferenceSet([1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9])
    # 2 log2(2^20) / 4 = 10 bits a byte; the median is 1.45 and MAD 0.25.
    (told,) = judge([score(2.0**20)], Rule(), reference)
    assert told.z == pytest.approx(0.6745 * (10 - 1.45) / 0.25)
    assert told.dropped_by == "z +23.1 beyond 3.5"
    assert told.quality == pytest.approx(2 / 11)
    # Two bits a token are one bit a byte here: a little below the reference.
    assert judge([score(4)], Rule(), reference)[0].dropped_by is None
    assert judge([score(1.0001)], Rule(max_z=2), reference)[0].dropped_by == "z -3.9 beyond 2"


def test_a_text_without_bytes_has_no_bits_per_byte() -> None:
    assert judge([score(8, size=0)], Rule(by="bits_per_byte"))[0].dropped_by == "no bits per byte"
    assert judge([score(8, size=0)], Rule())[0].dropped_by is None


@pytest.mark.parametrize("settings", [{"between": [3, 2]}, {"keep": 0}, {"keep": 1.5}, {"max_perplexity": 0}])
def test_bad_rules(settings: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        Rule.parse(settings)


@pytest.mark.parametrize(
    "rows",
    [
        [{"text": "a", "id": 7, "meta": {"url": "u"}, "source": "web"}],
        [{"sentence": "good", "label": "pos", "score": 3}, {"sentence": "bad", "label": "neg", "score": 1}],
        [{"instruction": "Do", "input": "this", "output": "Done", "tokens": 5}],
        [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "id": 1}],
        [{"document": "long", "summary": "short", "id": "x"}],
        [{"text": "ab", "spans": [[0, 1]], "tags": 3}],
    ],
)
def test_rows_read_again_as_the_same_records(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    read, given = dataset.read_with_rows(rows)
    out = tmp_path / "out.jsonl"
    write_texts(out, read.records, given, judge([score(9)] * len(rows), Rule()))
    assert dataset.read(out).records == read.records
    written = [json.loads(line) for line in out.read_text().splitlines()]
    for old, new in zip(rows, written):
        assert new["perplexity"] == pytest.approx(9)
        assert old.items() <= new.items()
        assert set(new) - set(old) == {"perplexity", "bits_per_byte", "scored_tokens"}


def test_a_table_of_numbers_stays_one(tmp_path: Path) -> None:
    """CSV has no types: labels that are read as numbers are written as numbers."""
    (tmp_path / "a.csv").write_text("text,label,id\ngood,1,x\nbad,0,y\n")
    read, given = dataset.read_with_rows(tmp_path / "a.csv")
    written: list[Record] = dataset.read([as_row(record, row) for record, row in zip(read.records, given)]).records
    assert written == read.records


def test_flagged_texts_stay(tmp_path: Path) -> None:
    read, rows = dataset.read_with_rows([{"text": "a"}, {"text": "b"}])
    told = judge([score(5), score(50)], Rule(max_perplexity=10))
    write_texts(tmp_path / "kept.jsonl", read.records, rows, told)
    write_texts(tmp_path / "all.jsonl", read.records, rows, told, flag=True)
    assert [r.text for r in dataset.read(tmp_path / "kept.jsonl")] == ["a"]  # type: ignore[union-attr]
    flagged = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    assert [(row["kept"], row["dropped_by"]) for row in flagged] == [(True, None), (False, "perplexity 50 > 10")]
