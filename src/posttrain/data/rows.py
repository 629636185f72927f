"""Files as rows: every supported format read into ``(origin, mapping)``, and nothing understood yet.

JSON Lines, JSON (a list, or an object holding one), CSV, TSV, CoNLL, Parquet and plain text, each also gzip-, bzip2-
or xz-compressed. The origin is ``file:line`` of the row's first line (for Parquet, the row's number). What a row means
is the business of `posttrain.data.shapes`.

TSV is read as IANA defines text/tab-separated-values: no quoting, a field holds neither tab nor line break.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

from posttrain.core.errors import BadRequest
from posttrain.data.dialogue import type_name

Row: TypeAlias = tuple[str, dict[str, Any]]

FORMATS = (".jsonl", ".json", ".csv", ".tsv", ".conll", ".parquet", ".txt", ".md")
_COMPRESSION = {".gz": gzip.decompress, ".bz2": bz2.decompress, ".xz": lzma.decompress}
_LIST_KEYS = ("data", "records", "examples", "rows")
_decoder = json.JSONDecoder()
# How JSON writes one half of a character beyond the first 65,536, which takes two of them.
_HALF = re.compile(r"\\u[dD][89a-fA-F]")


def file_format(path: Path, kind: str | None) -> str:
    """The format a file's name promises, as one of `FORMATS`; any name is plain text when `kind` is ``text``.

    Raises:
        BadRequest: If the name promises none.
    """
    name = path.name.lower()
    for ending in _COMPRESSION:
        name = name.removesuffix(ending)
    suffix = Path(name).suffix
    if suffix in (".jsonl", ".ndjson"):
        return ".jsonl"
    if suffix in FORMATS:
        return suffix
    if kind == "text":
        return ".txt"
    raise BadRequest(
        f"{path}: the name doesn't say what format it is.",
        f"Known: {', '.join(FORMATS)}, each also with {', '.join(_COMPRESSION)}; "
        "kind=text reads any file as plain text.",
    )


def rows_of(
    path: Path, form: str, *, split: str | None = None, lines: bool = False, header: list[str] | None = None
) -> Iterator[Row]:
    """All rows of a file.

    Args:
        path: The file.
        form: One of `FORMATS`.
        split: The key that holds the rows, in a JSON object with several.
        lines: Of plain text, give one row per non-blank line instead of one for the whole file.
        header: Names of the columns of a CSV or TSV file whose first line doesn't hold them.

    Yields:
        The origin and the row.

    Raises:
        BadRequest: Naming file and line, if the file is damaged or doesn't keep to its format.
    """
    data = _bytes(path)
    if form == ".parquet":
        return _parquet(path, data)
    text = _decode(path, data)
    if form == ".jsonl":
        return _json_lines(path, text)
    if form == ".json":
        return _json(path, text, split)
    if form in (".csv", ".tsv"):
        return _separated(path, text, form, header)
    if form == ".conll":
        return _conll(path, text)
    return _plain(path, text, lines)


def text_of(path: Path) -> str:
    """A file's text, decompressed where its name says so and without a byte order mark.

    Raises:
        BadRequest: If it can't be read, is damaged, or isn't UTF-8; names the line.
    """
    return _decode(path, _bytes(path))


def whole_value(path: Path) -> Any:
    """What a file of JSON says, as one value.

    Raises:
        BadRequest: As `text_of` does, or if it isn't JSON that can be used; names the line.
    """
    text = text_of(path)
    value, end = _from(path, text, _skip_space(text, 0))
    if text[end:].strip():
        raise _broken(path, json.JSONDecodeError("Extra data", text, _skip_space(text, end)))
    if _HALF.search(text):
        refuse_half_characters(value, str(path))
    return value


def json_value(text: str, origin: str, hint: str = "") -> Any:
    """What a line of JSON says.

    Args:
        text: The line.
        origin: Where it stands, ``file:line``.
        hint: What to do about one that isn't JSON.

    Raises:
        BadRequest: If it isn't JSON, or holds what can't be used: half a character, an endless number, lists in lists
            in lists.
    """
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise BadRequest(f"{origin}: not valid JSON: {error.msg} at column {error.colno}.", hint) from None
    except (RecursionError, ValueError) as error:
        raise _unusable(origin, error) from None
    if _HALF.search(text):
        refuse_half_characters(value, origin)
    return value


def refuse_half_characters(value: Any, origin: str) -> None:
    """Refuse texts with a lone surrogate, which is no character: no file in UTF-8 and no tokenizer takes it.

    Raises:
        BadRequest: If there is one in the value; names its origin.
    """
    try:
        json.dumps(value, ensure_ascii=False, default=str, skipkeys=True).encode("utf-8")
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):04x}"
        raise BadRequest(
            f"{origin}: a text holds half a character, the lone surrogate {half}.", "Remove it or mend the text."
        ) from None


def _unusable(origin: str, error: RecursionError | ValueError) -> BadRequest:
    """What to say of valid JSON that Python doesn't read."""
    if isinstance(error, RecursionError):
        return BadRequest(f"{origin}: the JSON is nested too deeply to be read.")
    return BadRequest(f"{origin}: the JSON holds a number with too many digits to be read.")


def _bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadRequest(f"{path} can't be read: {error.strerror}.") from error
    decompress = _COMPRESSION.get(path.suffix.lower())
    if decompress is None:
        return data
    try:
        return decompress(data)
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
        raise BadRequest(f"{path} is not a complete {path.suffix} file: {error}.", "Fetch it again.") from error


def _decode(path: Path, data: bytes) -> str:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BadRequest(
            f"{path}:{line}: byte 0x{data[error.start]:02x} at offset {error.start} is not valid UTF-8.",
            "Save the file as UTF-8.",
        ) from None
    return text.removeprefix("\ufeff")


def _plain(path: Path, text: str, lines: bool) -> Iterator[Row]:
    if not lines:
        if text.strip():
            yield f"{path}:1", {"text": text}
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"{path}:{number}", {"text": line.removesuffix("\r")}


def _json_lines(path: Path, text: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        origin = f"{path}:{number}"
        yield origin, _object(origin, json_value(line, origin, "A .jsonl file holds one JSON object per line."))


def _object(origin: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadRequest(
            f"{origin}: expected a JSON object with named columns, found {type_name(value)}.",
            'Write each record as {"column": value, …}.',
        )
    return value


def _json(path: Path, text: str, split: str | None) -> Iterator[Row]:
    """A list of objects, an object that holds such a list, or (a common misnomer) JSON Lines."""
    start = _skip_space(text, 0)
    if text[start : start + 1] == "[":
        rows, end = _elements(path, text, start)
        if text[end:].strip():
            raise _broken(path, json.JSONDecodeError("Extra data", text, _skip_space(text, end)))
        yield from rows
        return
    value, end = _from(path, text, start)
    if text[end:].strip():
        yield from _json_lines(path, text)
        return
    keys = [split] if split else [key for key in _LIST_KEYS if isinstance(_object(f"{path}:1", value).get(key), list)]
    if not keys or keys[0] not in value:
        raise BadRequest(
            f"{path}: a JSON object without a list of records; its keys: {', '.join(map(str, value))}.",
            f"Put the records under {', '.join(_LIST_KEYS)}, write a list, or name the key with split=KEY.",
        )
    yield from _member(path, text, start, keys[0])


def _member(path: Path, text: str, start: int, wanted: str) -> list[Row]:
    """The rows of the list under one key of the (valid) object that starts at `start`."""
    position = _skip_space(text, start + 1)
    while text[position] != "}":
        key, position = _decoder.raw_decode(text, position)
        position = _skip_space(text, _skip_space(text, position) + 1)  # past the colon
        if key == wanted and text[position] == "[":
            return _elements(path, text, position)[0]
        _, position = _decoder.raw_decode(text, position)
        position = _skip_space(text, position)
        if text[position] == ",":
            position = _skip_space(text, position + 1)
    raise BadRequest(f"{path}: '{wanted}' is not a list of records.")


def _elements(path: Path, text: str, start: int) -> tuple[list[Row], int]:
    """The objects of the list whose bracket stands at `start`, each with the line it begins on."""
    rows: list[Row] = []
    line = text.count("\n", 0, start) + 1
    counted = start
    halves = _HALF.search(text) is not None
    position = _skip_space(text, start + 1)
    if text[position : position + 1] == "]":
        return rows, position + 1
    while True:
        value, end = _from(path, text, position)
        line += text.count("\n", counted, position)
        counted = position
        origin = f"{path}:{line}"
        if halves:
            refuse_half_characters(value, origin)
        rows.append((origin, _object(origin, value)))
        position = _skip_space(text, end)
        mark = text[position : position + 1]
        if mark == "]":
            return rows, position + 1
        if mark != ",":
            raise _broken(path, json.JSONDecodeError("Expecting ',' or ']'", text, position))
        position = _skip_space(text, position + 1)


def _from(path: Path, text: str, position: int) -> tuple[Any, int]:
    """The value that begins at a position, and where it ends."""
    try:
        return _decoder.raw_decode(text, position)
    except json.JSONDecodeError as error:
        raise _broken(path, error) from None
    except (RecursionError, ValueError) as error:
        raise _unusable(f"{path}:{text.count(chr(10), 0, position) + 1}", error) from None


def _broken(path: Path, error: json.JSONDecodeError) -> BadRequest:
    return BadRequest(f"{path}:{error.lineno}: not valid JSON: {error.msg} at column {error.colno}.")


def _skip_space(text: str, position: int) -> int:
    while text[position : position + 1] in (" ", "\n", "\r", "\t"):
        position += 1
    return position


def _separated(path: Path, text: str, form: str, header: list[str] | None) -> Iterator[Row]:
    stream = io.StringIO(text, newline="")
    if form == ".tsv":
        reader = csv.reader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(stream, strict=True)
    limit = csv.field_size_limit(2**31 - 1)  # articles exceed the module's 128 KiB
    line = 1
    try:
        for fields in reader:
            origin = f"{path}:{line}"
            line = reader.line_num + 1
            if not fields:
                continue  # a blank line
            if header is None:
                header = fields
                if twice := {name for name in header if header.count(name) > 1}:
                    raise BadRequest(f"{origin}: the header names a column twice: {', '.join(sorted(twice))}.")
                continue
            if len(fields) != len(header):
                raise BadRequest(
                    f"{origin}: {len(fields)} fields where the header names {len(header)}.",
                    "Quote fields that hold commas or line breaks."
                    if form == ".csv"
                    else "A .tsv field can't hold a tab or a line break; use .csv or .jsonl.",
                )
            yield origin, dict(zip(header, fields))
    except csv.Error as error:
        raise BadRequest(f"{path}:{line}: not valid CSV: {error}.", "Double the quotes inside quoted fields.") from None
    finally:
        csv.field_size_limit(limit)


def _conll(path: Path, text: str) -> Iterator[Row]:
    """Sentences between blank lines; a line's first column is the word, its last the tag."""
    tokens: list[str] = []
    tags: list[str] = []
    start = 1
    for number, line in enumerate([*text.split("\n"), ""], start=1):
        columns = line.split()
        if columns and columns[0] != "-DOCSTART-":
            if len(columns) < 2:
                raise BadRequest(f"{path}:{number}: a word without a tag: {columns[0]!r}.")
            start = start if tokens else number
            tokens.append(columns[0])
            tags.append(columns[-1])
        elif tokens:
            yield f"{path}:{start}", {"tokens": tokens, "tags": tags}
            tokens, tags = [], []


def _parquet(path: Path, data: bytes) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(io.BytesIO(data))
    except (pyarrow.ArrowException, OSError) as error:
        raise BadRequest(f"{path} is not a readable Parquet file: {error}.") from error
    metadata = (table.schema.metadata or {}).get(b"huggingface")
    features = json.loads(metadata).get("info", {}).get("features", {}) if metadata else {}
    for number, row in enumerate(table.to_pylist(), start=1):
        origin = f"{path}:{number}"
        yield origin, with_class_names(row, features, origin)


def with_class_names(row: dict[str, Any], features: dict[str, Any], origin: str) -> dict[str, Any]:
    """Replace class numbers by their names, where the `datasets` features of a set give them.

    Raises:
        BadRequest: If a number has no name (test sets often mark hidden labels with -1).
    """

    def named(value: Any, names: list[str]) -> Any:
        if isinstance(value, list):
            return [named(item, names) for item in value]
        if value is None or isinstance(value, str):
            return value
        if not 0 <= value < len(names):
            raise BadRequest(
                f"{origin}: class {value} is none of the set's {len(names)} classes.", "Choose a labelled split."
            )
        return names[value]

    for column, feature in features.items():
        while isinstance(feature, dict) and isinstance(feature.get("feature"), dict):
            feature = feature["feature"]
        if isinstance(feature, list) and feature:
            feature = feature[0]
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and column in row:
            row[column] = named(row[column], feature["names"])
    return row
