from __future__ import annotations

import bz2
import gzip
import lzma
from pathlib import Path

import pytest

from posttrain.core.errors import BadRequest
from posttrain.data.rows import Row, file_format, rows_of, whole_value


def read(path: Path, text: str | bytes, **options: object) -> list[Row]:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    rows = rows_of(path, file_format(path, None), **options)  # type: ignore[arg-type]
    return [(origin.removeprefix(f"{path.parent}/"), row) for origin, row in rows]


def problem(path: Path, text: str | bytes, **options: object) -> str:
    with pytest.raises(BadRequest) as error:
        read(path, text, **options)
    return str(error.value).replace(f"{path.parent}/", "")


def test_json_lines_count_blank_lines_but_skip_them(tmp_path: Path):
    assert read(tmp_path / "a.jsonl", '{"x": 1}\r\n\n{"x": "\u2028"}') == [
        ("a.jsonl:1", {"x": 1}),
        ("a.jsonl:3", {"x": "\u2028"}),
    ]


def test_json_list_gives_each_element_its_line(tmp_path: Path):
    text = '[\n  {"x": 1},\n  {"x":\n 2}, {"x": 3}\n]\n'
    rows = [("a.json:2", {"x": 1}), ("a.json:3", {"x": 2}), ("a.json:4", {"x": 3})]
    assert read(tmp_path / "a.json", text) == rows
    assert read(tmp_path / "a.json", "[]") == []


def test_json_object_holds_the_list_under_a_known_key_or_the_split(tmp_path: Path):
    text = '{"version": {"data": [9]},\n "data": [{"x": 1},\n {"x": 2}], "test": [{"x": 3}]}'
    assert read(tmp_path / "a.json", text) == [("a.json:2", {"x": 1}), ("a.json:3", {"x": 2})]
    assert read(tmp_path / "a.json", text, split="test") == [("a.json:3", {"x": 3})]
    assert "without a list of records; its keys: version, data, test" in problem(tmp_path / "a.json", text, split="dev")


def test_json_lines_under_the_name_json_are_read(tmp_path: Path):
    assert read(tmp_path / "a.json", '{"x": 1}\n{"x": 2}\n') == [("a.json:1", {"x": 1}), ("a.json:2", {"x": 2})]


def test_csv_keeps_quoted_line_breaks_and_the_line_a_record_begins_on(tmp_path: Path):
    text = 'x,y\n"a\nb","c ""d"""\n\ne,f\n'
    assert read(tmp_path / "a.csv", text) == [
        ("a.csv:2", {"x": "a\nb", "y": 'c "d"'}),
        ("a.csv:5", {"x": "e", "y": "f"}),
    ]


def test_csv_fields_may_be_longer_than_the_modules_limit(tmp_path: Path):
    long = "a" * 200_000
    assert read(tmp_path / "a.csv", f"x\n{long}\n")[0][1]["x"] == long


def test_tsv_takes_quotes_literally(tmp_path: Path):
    assert read(tmp_path / "a.tsv", 'x\ty\n"Oh\tno\n') == [("a.tsv:2", {"x": '"Oh', "y": "no"})]


def test_conll_sentences_end_at_blank_lines(tmp_path: Path):
    text = "-DOCSTART- -X- O\n\nAnna NNP B-PER\nsings VBZ O\n\n\nBerlin NNP B-LOC"
    assert read(tmp_path / "a.conll", text) == [
        ("a.conll:3", {"tokens": ["Anna", "sings"], "tags": ["B-PER", "O"]}),
        ("a.conll:7", {"tokens": ["Berlin"], "tags": ["B-LOC"]}),
    ]


def test_plain_text_is_one_row_or_one_per_line(tmp_path: Path):
    text = "\ufeffone\r\n\n two\n"
    assert read(tmp_path / "a.txt", text) == [("a.txt:1", {"text": "one\r\n\n two\n"})]
    assert read(tmp_path / "a.txt", text, lines=True) == [("a.txt:1", {"text": "one"}), ("a.txt:3", {"text": " two"})]
    assert read(tmp_path / "a.txt", " \n") == []


def test_parquet_names_the_classes_that_datasets_wrote(tmp_path: Path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["bad", "good"]),
            "tags": datasets.List(datasets.ClassLabel(names=["O", "B"])),
        }
    )
    data = {"text": ["a", "b"], "label": [1, 0], "tags": [[0, 1], []]}
    path = tmp_path / "a.parquet"
    datasets.Dataset.from_dict(data, features=features).to_parquet(path)
    assert list(rows_of(path, ".parquet")) == [
        (f"{path}:1", {"text": "a", "label": "good", "tags": ["O", "B"]}),
        (f"{path}:2", {"text": "b", "label": "bad", "tags": []}),
    ]


def test_a_class_without_a_name_is_refused(tmp_path: Path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"label": datasets.ClassLabel(names=["bad", "good"])})
    path = tmp_path / "a.parquet"
    datasets.Dataset.from_dict({"label": [1, -1]}, features=features).to_parquet(path)
    with pytest.raises(BadRequest, match=r"a.parquet:2: class -1 is none of the set's 2 classes"):
        list(rows_of(path, ".parquet"))


@pytest.mark.parametrize(("ending", "compress"), [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)])
def test_compressed_files(tmp_path: Path, ending: str, compress):
    data = compress(b'{"x": 1}\n' * 40)
    assert read(tmp_path / f"a.jsonl.{ending}", data)[1] == (f"a.jsonl.{ending}:2", {"x": 1})
    assert f"a.jsonl.{ending} is not a complete .{ending} file" in problem(tmp_path / f"a.jsonl.{ending}", data[:-9])


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.jsonl", '{"x": 1}\n{"x": }\n', "a.jsonl:2: not valid JSON: Expecting value at column 7."),
        ("a.jsonl", '{"x": 1}\n[1]\n', "a.jsonl:2: expected a JSON object with named columns, found a list."),
        ("a.json", '[{"x": 1},\n{"x": 2}', "a.json:2: not valid JSON: Expecting ',' or ']' at column 9."),
        ("a.json", '[{"x": 1},\n{"x" 2}]', "a.json:2: not valid JSON: Expecting ':' delimiter at column 6."),
        ("a.json", '[{"x": 1},\n7]', "a.json:2: expected a JSON object with named columns, found a number."),
        ("a.json", '[{"x": 1}]\n]', "a.json:2: not valid JSON: Extra data at column 1."),
        ("a.json", '{"x": 1', "a.json:1: not valid JSON: Expecting ',' delimiter at column 8."),
        ("a.json", '{"x": 1}', "a.json: a JSON object without a list of records; its keys: x."),
        ("a.csv", "x,y\na,b\nc\n", "a.csv:3: 1 fields where the header names 2."),
        ("a.csv", 'x,y\na,"b\nc\n', "a.csv:2: not valid CSV: unexpected end of data."),
        ("a.csv", "x,x\na,b\n", "a.csv:1: the header names a column twice: x."),
        ("a.tsv", "x\ty\na\tb\tc\n", "a.tsv:2: 3 fields where the header names 2."),
        ("a.conll", "Anna B-PER\nsings\n", "a.conll:2: a word without a tag: 'sings'."),
        ("a.txt", b"ok\nno\xff\n", "a.txt:2: byte 0xff at offset 5 is not valid UTF-8."),
        ("a.parquet", b"PAR1", "a.parquet is not a readable Parquet file"),
    ],
)
def test_a_damaged_file_is_refused_by_file_and_line(tmp_path: Path, name: str, text: str | bytes, expected: str):
    assert expected in problem(tmp_path / name, text)


def test_an_unknown_name_is_plain_text_only_when_asked_for(tmp_path: Path):
    assert file_format(tmp_path / "wiki.test.tokens", "text") == ".txt"
    assert file_format(tmp_path / "A.JSONL.GZ", None) == ".jsonl"
    with pytest.raises(BadRequest, match=r"wiki.test.tokens: the name doesn't say what format it is"):
        file_format(tmp_path / "wiki.test.tokens", None)


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("a.jsonl", '{"x": 1}\n{"x": ["a", "b \\ud83d c"]}\n', "a.jsonl:2: a text holds half a character"),
        (
            "a.json",
            '[{"x": 1},\n {"x": "\\uDC00"}]',
            r"a.json:2: a text holds half a character, the lone surrogate \udc00",
        ),
        ("a.jsonl", "[" * 100_000, "a.jsonl:1: the JSON is nested too deeply"),
        ("a.json", '[{"x": 1},\n' + "[" * 100_000, "a.json:2: the JSON is nested too deeply"),
        ("a.jsonl", '{"x": ' + "1" * 5000 + "}", "a.jsonl:1: the JSON holds a number with too many digits"),
    ],
)
def test_json_that_nobody_can_use(tmp_path: Path, name: str, text: str, sentence: str):
    """No file in UTF-8 and no tokenizer takes a lone surrogate; Python's parser has limits of its own."""
    assert sentence in problem(tmp_path / name, text)


def test_escaped_pairs_of_surrogates_are_characters(tmp_path: Path):
    assert read(tmp_path / "a.jsonl", r'{"x": "\ud83d\udc4d"}') == [("a.jsonl:1", {"x": "\U0001f44d"})]


def test_a_file_as_one_value(tmp_path: Path):
    path = tmp_path / "a.json"
    path.write_text(' {"x": [1,\n 2]} ')
    assert whole_value(path) == {"x": [1, 2]}
    for text, sentence in [
        ('{"x": 1}\n{}', "a.json:2: not valid JSON: Extra data"),
        (r'{"x": "\ud800"}', "half a character"),
        ("", "a.json:1: not valid JSON"),
    ]:
        path.write_text(text)
        with pytest.raises(BadRequest, match=sentence):
            whole_value(path)
