from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from posttrain.core.errors import BadRequest, Failure
from posttrain.data.dataset import Dataset, deduplicate, read, read_with_rows, split_off
from posttrain.data.record import Completion, Labelled, QuestionAnswer, Text


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_reads_records_with_their_lines(tmp_path: Path):
    path = write(tmp_path / "a.jsonl", [{"prompt": "p", "completion": "c"}, {"prompt": "q", "completion": "d"}])
    dataset = read(path)
    assert dataset.kind == "completion"
    assert dataset.records == [Completion("p", "c"), Completion("q", "d")]
    assert [record.origin for record in dataset] == [f"{path}:1", f"{path}:2"]
    assert len(dataset) == 2 and dataset[1] == Completion("q", "d")
    assert dataset.source == str(path)


def test_the_hash_is_the_contents_not_the_files(tmp_path: Path):
    rows = [{"prompt": "p", "completion": "c"}, {"prompt": "q", "completion": "d"}]
    lines = read(write(tmp_path / "a.jsonl", rows))
    (tmp_path / "b.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    (tmp_path / "c.csv").write_text("prompt,completion\np,c\nq,d\n", encoding="utf-8")
    assert lines.hash == read(tmp_path / "b.json").hash == read(tmp_path / "c.csv").hash == read(rows).hash
    assert len(lines.hash) == 64
    assert len({lines.hash, read(rows, limit=1).hash, read(rows[::-1]).hash}) == 3


def test_rows_from_python():
    dataset = read([{"text": "a"}, {"text": "b"}], limit=1)
    assert dataset.records == [Text("a")]
    assert dataset[0].origin == "rows:1"
    with pytest.raises(BadRequest, match="rows:1: expected a mapping"):
        read(["a"])  # type: ignore[list-item]


def test_columns_and_kind(tmp_path: Path):
    path = write(tmp_path / "a.jsonl", [{"Goal": "p", "Target": "c"}])
    dataset = read(path, columns={"prompt": "Goal", "completion": "Target"})
    assert dataset.records == [Completion("p", "c")]
    assert dataset.columns == {"prompt": "Goal", "completion": "Target"}
    with pytest.raises(BadRequest, match=r"There is no kind of record 'complet'. Did you mean 'completion'"):
        read(path, kind="complet")


def test_plain_text_whole_or_by_line(tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_text("one\n\ntwo\n", encoding="utf-8")
    assert read(path).records == [Text("one\n\ntwo\n")]
    assert read(path, lines=True).records == [Text("one"), Text("two")]


def test_nested_squad(tmp_path: Path):
    qas = [
        {"id": "1", "question": "q", "answers": [{"text": "b", "answer_start": 2}]},
        {"question": "r", "answers": []},
    ]
    article = {"title": "t", "paragraphs": [{"context": "a b", "qas": qas}]}
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"version": "1.1", "data": [article]}), encoding="utf-8")
    assert read(path).records == [QuestionAnswer("q", "a b", ["b"], [2]), QuestionAnswer("r", "a b", [], [])]
    assert len(read(path, limit=1)) == 1


@pytest.mark.parametrize(
    ("cells", "labels"), [(["0", "1"], [0, 1]), (["0.5", "1"], [0.5, 1.0]), (["0", "good"], ["0", "good"])]
)
def test_csv_labels_are_numbers_where_all_are(tmp_path: Path, cells: list[str], labels: list[Any]):
    path = tmp_path / "a.csv"
    path.write_text(f"text,label\na,{cells[0]}\nb,{cells[1]}\n", encoding="utf-8")
    found = [record.labels for record in read(path) if isinstance(record, Labelled)]
    assert found == labels
    assert [type(label) for label in found] == [type(label) for label in labels]


def test_json_labels_keep_their_type(tmp_path: Path):
    assert read(write(tmp_path / "a.jsonl", [{"text": "a", "label": "1"}])).records == [Labelled("a", "1")]


def test_a_folder_is_read_by_split(tmp_path: Path):
    write(tmp_path / "train.jsonl", [{"text": "a"}])
    write(tmp_path / "test.jsonl", [{"text": "b"}])
    assert read(tmp_path, split="test").records == [Text("b")]
    with pytest.raises(BadRequest, match=r"is a folder. It holds test.jsonl, train.jsonl."):
        read(tmp_path)


def test_built_in_sets_are_found_by_name():
    assert read("builtin:handbook", limit=1).kind == "completion"
    with pytest.raises(BadRequest, match=r"no built-in data set 'handbok'. Did you mean 'handbook'"):
        read("builtin:handbok")


def test_a_missing_file_names_its_neighbours(tmp_path: Path):
    write(tmp_path / "train.jsonl", [{"text": "a"}])
    with pytest.raises(BadRequest, match=r"trian.jsonl doesn't exist. Near it: train.jsonl"):
        read(tmp_path / "trian.jsonl")
    with pytest.raises(BadRequest, match=r"For a set from the hub, write hub:no-such-owner/name"):
        read("no-such-owner/name")


def test_errors_name_file_and_line(tmp_path: Path):
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n", encoding="utf-8")
    with pytest.raises(BadRequest, match=r"empty.jsonl has no records"):
        read(empty)
    path = write(tmp_path / "a.jsonl", [{"text": "a"}, {"text": ""}])
    with pytest.raises(BadRequest, match=r"a.jsonl:2: 'text' is empty"):
        read(path)
    path = write(
        tmp_path / "b.jsonl",
        [{"messages": [{"role": "user", "content": "a"}]} | extra for extra in ({}, {"label": True})],
    )
    with pytest.raises(BadRequest, match=r"b.jsonl:2: a completion record among chat records"):
        read(path)
    with pytest.raises(BadRequest, match=r"has no splits, so there is no split 'dev'"):
        read(path, split="dev")
    with pytest.raises(BadRequest, match="limit must be at least 1"):
        read(path, limit=0)


def test_the_hub_gives_class_names_and_the_asked_split(monkeypatch: pytest.MonkeyPatch):
    import datasets

    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    )
    asked: list[Any] = []

    def load(name: str, config: str | None, split: str) -> Any:
        asked.append((name, config, split))
        return datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features)

    monkeypatch.setattr(datasets, "load_dataset", load)
    dataset = read("hub:owner/name:english", split="test")
    assert asked == [("owner/name", "english", "test")]
    assert dataset.records == [Labelled("a", "good"), Labelled("b", "bad")]
    assert dataset[1].origin == "hub:owner/name:english/test:2"


def test_the_hub_out_of_reach_is_a_failure_and_a_wrong_split_a_bad_request(monkeypatch: pytest.MonkeyPatch):
    import datasets

    def offline(*_: Any, **__: Any) -> Any:
        raise ConnectionError("Couldn't reach 'owner/name' on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(Failure, match=r"hub:owner/name is not in the local cache and the hub can't be reached"):
        read("hub:owner/name")

    def unknown(*_: Any, **__: Any) -> Any:
        raise ValueError('Unknown split "dev".\nShould be one of train')

    monkeypatch.setattr(datasets, "load_dataset", unknown)
    with pytest.raises(BadRequest, match=r"hub:owner/name can't be read: Unknown split \"dev\"\."):
        read("hub:owner/name", split="dev")


def numbered(count: int) -> Dataset:
    return read([{"text": f"text {i}"} for i in range(count)])


def test_split_off_is_a_partition_that_depends_on_the_seed_alone():
    dataset = numbered(10)
    train, validation = split_off(dataset, 0.3, seed=1)
    assert (len(train), len(validation)) == (7, 3)
    assert sorted([*train, *validation], key=dataset.records.index) == dataset.records
    assert [dataset.records.index(r) for r in train] == sorted(dataset.records.index(r) for r in train)
    assert split_off(dataset, 3, seed=1)[1].records == validation.records
    assert split_off(dataset, 3, seed=2)[1].records != validation.records
    assert train.hash != validation.hash != dataset.hash


@pytest.mark.parametrize("size", [0, 0.01, 10, 11, 0.99])
def test_split_off_refuses_an_empty_part(size: float):
    with pytest.raises(BadRequest, match=f"Taking {size} of 10 records"):
        split_off(numbered(10), size)


def test_deduplicate_ignores_case_and_white_space_and_keeps_the_first():
    rows = [{"text": "A  dog\n"}, {"text": "a dog"}, {"text": "a cat"}, {"text": "A DOG"}]
    kept, removed = deduplicate(read(rows))
    assert kept.records == [Text("A  dog\n"), Text("a cat")]
    assert removed == 2


def test_deduplicate_looks_at_all_of_a_record():
    kept, removed = deduplicate(read([{"text": "a", "label": 0}, {"text": "a", "label": 1}]))
    assert (len(kept), removed) == (2, 0)


def test_rows_may_be_asked_for_too(tmp_path: Path):
    """One a record, with the columns renamed; what the records don't hold is there."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"body": "a", "id": 1}\n{"body": "b", "id": 2}\n')
    found, rows = read_with_rows(path, columns={"text": "body"}, limit=1)
    assert found == read(path, columns={"text": "body"}, limit=1)
    assert rows == [{"id": 1, "text": "a"}]


def test_texts_with_half_a_character_are_refused(tmp_path: Path):
    with pytest.raises(BadRequest, match=r"rows:2: a text holds half a character, the lone surrogate \\udcff"):
        read([{"text": "a"}, {"text": "b \udcff"}])
    assert len(read([{"text": "a", ("odd", "key"): object()}])) == 1


def test_what_can_be_read_only_once_is_refused(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(BadRequest, match=r"pipe.txt is a pipe or a device"):
        read(tmp_path / "pipe.txt")
