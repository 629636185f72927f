"""Files read text by text: every line is seen, numbers are right, and what is damaged is named."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma

import pytest

from posttrain.core.errors import BadRequest
from posttrain.data import streaming
from posttrain.data.streaming import data_files, leaves, texts_of


def test_leaves():
    row = {"a": "one", "b": [{"c": "two", "d": 3}, None, ["three"]], "e": {"f": "four"}}
    assert list(leaves(row)) == ["one", "two", "three", "four"]


def test_json_lines(tmp_path):
    path = tmp_path / "a.jsonl"
    rows = [{"prompt": "Hi\nthere", "n": 1}, {"messages": [{"role": "user", "content": "Yes"}]}, {"n": 2}]
    path.write_text("\ufeff" + "\n\n".join(json.dumps(row) for row in rows))
    found = list(texts_of(path))
    assert [(piece.line, piece.text, piece.wrapped) for piece in found] == [
        (1, "Hi\nthere", False),
        (3, "user\nYes", False),
    ]


@pytest.mark.parametrize(("ending", "compress"), [("", bytes), (".gz", gzip.compress), (".bz2", bz2.compress)])
def test_a_text_comes_in_pieces_that_overlap(tmp_path, monkeypatch, ending, compress):
    """Pieces of at least 40 characters; each repeats at least 15 of the last one's, in whole lines."""
    monkeypatch.setattr(streaming, "PIECE", 40)
    monkeypatch.setattr(streaming, "OVERLAP", 15)
    lines = [f"line {i:02d} ....\n" for i in range(10)]  # 13 characters each
    path = tmp_path / f"a.txt{ending}"
    path.write_bytes(compress("".join(lines).encode()))
    found = list(texts_of(path))
    assert [piece.line for piece in found] == [1, 3, 5, 7]
    for piece in found:
        assert piece.wrapped
        assert piece.text == "".join(lines[piece.line - 1 : piece.line - 1 + piece.text.count("\n")])
    assert found[-1].text.endswith("line 09 ....\n")


def test_long_lines_are_not_repeated(tmp_path, monkeypatch):
    monkeypatch.setattr(streaming, "PIECE", 40)
    monkeypatch.setattr(streaming, "OVERLAP", 15)
    path = tmp_path / "a.md"
    path.write_text("x" * 50 + "\n" + "y" * 60 + "\nend\n")
    assert [(piece.line, len(piece.text)) for piece in texts_of(path)] == [(1, 51), (2, 61), (3, 4)]


def test_other_formats(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("q,a\nWho?,Me\n,\n")
    assert [(piece.line, piece.text) for piece in texts_of(path)] == [(2, "Who?\nMe")]
    (tmp_path / "b.json").write_text(json.dumps([{"text": "one"}, {"text": "two"}], indent=1))
    assert [piece.text for piece in texts_of(tmp_path / "b.json")] == ["one", "two"]


def test_blank_files(tmp_path):
    (tmp_path / "a.txt").write_text("\n  \n")
    (tmp_path / "b.jsonl").write_text("")
    assert list(texts_of(tmp_path / "a.txt")) == list(texts_of(tmp_path / "b.jsonl")) == []


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.txt", b"fine\nnot \xff\n", r"a\.txt:2: byte 0xff at offset 4 of the line is not valid UTF-8"),
        ("a.jsonl", b'{"a": "b"}\n{"a": \n', r"a\.jsonl:2: not valid JSON"),
        ("a.jsonl", b"[1]\n", r"a\.jsonl:1: expected a JSON object"),
        ("a.txt.gz", gzip.compress(b"text" * 50)[:20], r"not a complete \.gz file"),
        ("a.txt.gz", b"plain", r"not a complete \.gz file"),
        ("a.txt.bz2", b"plain", "can't be read|not a complete"),
        ("a.txt.xz", lzma.compress(b"text" * 50)[:40], r"not a complete \.xz file"),
    ],
)
def test_damage_is_named(tmp_path, name, content, sentence):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadRequest, match=sentence):
        list(texts_of(tmp_path / name))


def test_files_and_folders(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("b.txt", "in/a.jsonl.gz", "in/c.pyc", ".hidden.txt", "d.ndjson"):
        (tmp_path / name).write_text("")
    assert [path.name for path in data_files([tmp_path / "b.txt", tmp_path])] == [
        "b.txt",
        "d.ndjson",
        "a.jsonl.gz",
    ]
    (tmp_path / "none").mkdir()
    for place, sentence in ((tmp_path / "x.txt", "no file or folder"), (tmp_path / "none", "holds no data")):
        with pytest.raises(BadRequest, match=sentence):
            data_files([place])
    with pytest.raises(BadRequest, match="doesn't say what format"):
        data_files([tmp_path / "in" / "c.pyc"])
