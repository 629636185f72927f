"""Texts line by line: what is a line, what is refused, and what the refusals say."""

from __future__ import annotations

import gzip

import pytest

from posttrain.core.errors import BadRequest
from posttrain.data.parallel import read_references, read_texts


@pytest.fixture
def file(tmp_path):
    """Write a file and give its path."""

    def write(name: str, content: bytes | str):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        ("a\nb\n", ["a", "b"]),
        ("a\nb", ["a", "b"]),
        ("a\r\n\r\nb\r\n", ["a", "", "b"]),
        ("\na\n\n", ["", "a", ""]),  # a model may write nothing, also last
        ("one\u2028line\x0b\x85\x1c\n", ["one\u2028line\x0b\x85\x1c"]),
        ("\ufeffa\n", ["a"]),
    ],
)
def test_lines(file, content, texts):
    assert read_texts(file("texts.txt", content)) == texts
    assert read_texts(file("no-ending", content)) == texts
    assert read_texts(file("texts.txt.gz", gzip.compress(content.encode()))) == texts


def test_json_lines(file):
    path = file("texts.jsonl", '"two\\nlines"\n{"text": "b", "id": 1}\n""\n')
    assert read_texts(path) == ["two\nlines", "b", ""]
    assert read_references([file("r.jsonl", '["a", "b"]\n"c"\n'), file("more.txt", "d\ne\n")]) == [
        ["a", "b", "d"],
        ["c", "e"],
    ]


def test_references_by_row(file):
    first, second = file("first", "a\n\nc\n"), file("second", "d\ne\n\n")
    assert read_references([first, second]) == [["a", "d"], ["", "e"], ["c", ""]]
    assert read_references([first], blank_allowed=True) == [["a"], [""], ["c"]]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("empty.txt", "", "empty.txt holds no text"),
        ("blank.txt", "\n \n", "blank.txt holds no text"),
        ("latin.txt", b"a\nb\nna\xefve\n", "latin.txt:3: byte 0xef at offset 6 is not valid UTF-8"),
        ("bad.jsonl", '"a"\n{"text"\n', "bad.jsonl:2: not valid JSON"),
        ("bad.jsonl", '{"tex": "a"}\n', "bad.jsonl:1: expected a text or an object with `text`, found an object"),
        ("bad.jsonl", '{"text": 3}\n', "found a number"),
        ("bad.jsonl", '["a", "b"]\n', "bad.jsonl:1: a list of texts where one text is wanted"),
        ("bad.gz", "a\n", "bad.gz is not a complete .gz file"),
    ],
)
def test_files_that_cannot_be_used(file, name, content, sentence):
    with pytest.raises(BadRequest, match=sentence):
        read_texts(file(name, content))


def test_what_does_not_belong_together(file, tmp_path):
    with pytest.raises(BadRequest, match=r"first.txt has 2 texts, but .*second.txt has 3"):
        read_references([file("first.txt", "a\nb\n"), file("second.txt", "a\nb\nc\n")])
    with pytest.raises(BadRequest, match=r"r.txt:2: the reference is empty, so"):
        read_references([file("r.txt", "a\n \nc\n")])
    with pytest.raises(BadRequest, match=r"r.txt:2: the reference is empty in all files"):
        read_references([file("r.txt", "a\n \nc\n"), file("s.txt", "a\n\nc\n")])
    with pytest.raises(BadRequest, match=r"nowhere.txt can't be read: No such file"):
        read_texts(tmp_path / "nowhere.txt")


@pytest.mark.parametrize("name", ["t.json", "t.csv", "t.tsv.gz", "t.parquet", "t.conll"])
def test_tables_are_no_texts_by_line(file, name):
    """The header of a table would be scored as a text, and a list of JSON as one."""
    with pytest.raises(BadRequest, match=r"a line isn't one text\. Write one text a line"):
        read_texts(file(name, '["a", "b"]\n'))
