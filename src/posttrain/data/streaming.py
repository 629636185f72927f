"""Texts of files one after the other, for data that may be larger than memory.

JSON Lines and plain text, each also gzip-, bzip2- or xz-compressed, are read line by line; a long text comes in pieces
that overlap. Other formats (`posttrain.data.rows`) are read whole, one file at a time. What a row means doesn't matter
here: its text is all texts in it, one below the other.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from posttrain.core.errors import BadRequest
from posttrain.data.dialogue import type_name
from posttrain.data.rows import FORMATS, file_format, json_value, rows_of

# A text comes in pieces of about so many characters, each beginning with about so many of the last one's end.
PIECE, OVERLAP = 1 << 20, 2000

_OPEN = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_BY_LINE = (".jsonl", ".txt", ".md")


class Piece(NamedTuple):
    """A text or a part of one.

    Attributes:
        path: The file.
        line: Its first line there; of Parquet the row's number.
        text: The text.
        wrapped: Whether its lines are lines of the file; otherwise all of it stands in line `line`.
    """

    path: Path
    line: int
    text: str
    wrapped: bool


def data_files(places: Sequence[Path | str]) -> list[Path]:
    """The files that a list of files and folders stands for, each once; of a folder all of a known format.

    Raises:
        BadRequest: If one isn't there, or a folder holds no data.
    """
    found: list[Path] = []
    for place in map(Path, places):
        if place.is_dir():
            inside = sorted(path for path in place.rglob("*") if path.is_file() and _is_known(path))
            if not inside:
                raise BadRequest(f"The folder {place} holds no data.", f"Known formats: {', '.join(FORMATS)}.")
            found += inside
        elif place.is_file():
            file_format(place, None)
            found.append(place)
        else:
            raise BadRequest(f"There is no file or folder {place}.")
    return list(dict.fromkeys(found))


def texts_of(path: Path) -> Iterator[Piece]:
    """The texts of a file.

    Raises:
        BadRequest: Naming file and line, if it can't be read, is damaged, isn't UTF-8 or doesn't keep to its format.
    """
    form = file_format(path, None)
    if form == ".jsonl":
        return _of_json_lines(path)
    if form in _BY_LINE:
        return _of_text(path)
    return _of_rows(path, form)


def leaves(value: Any) -> Iterator[str]:
    """All texts in a JSON-able value, in order."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inside in value.values():
            yield from leaves(inside)
    elif isinstance(value, (list, tuple)):
        for inside in value:
            yield from leaves(inside)


def _is_known(path: Path) -> bool:
    name = path.name.lower()
    for ending in _OPEN:
        name = name.removesuffix(ending)
    return name.endswith((*FORMATS, ".ndjson")) and not path.name.startswith(".")


def _of_rows(path: Path, form: str) -> Iterator[Piece]:
    for origin, row in rows_of(path, form):
        text = "\n".join(leaves(row))
        if text.strip():
            yield Piece(path, int(origin.rpartition(":")[2]), text, wrapped=False)


def _of_json_lines(path: Path) -> Iterator[Piece]:
    for number, line in _lines(path):
        if not line.strip():
            continue
        row = json_value(line.rstrip(), f"{path}:{number}", "A .jsonl file holds one JSON object per line.")
        if not isinstance(row, dict):
            raise BadRequest(
                f"{path}:{number}: expected a JSON object with named columns, found {type_name(row)}.",
                'Write each record as {"column": value, …}.',
            )
        text = "\n".join(leaves(row))
        if text.strip():
            yield Piece(path, number, text, wrapped=False)


def _of_text(path: Path) -> Iterator[Piece]:
    held: list[str] = []
    first, size, fresh = 1, 0, False
    for number, line in _lines(path):
        held.append(line)
        size += len(line)
        fresh = fresh or bool(line.strip())
        if size >= PIECE and fresh:
            yield Piece(path, first, "".join(held), wrapped=True)
            kept, size = len(held), 0
            while kept > 1 and size < OVERLAP:
                kept -= 1
                size += len(held[kept])
            # A line as long as a piece isn't repeated: it would be all of the next one.
            kept, size = (kept, size) if size < PIECE else (len(held), 0)
            held = held[kept:]
            first, fresh = number + 1 - len(held), False
    if fresh:
        yield Piece(path, first, "".join(held), wrapped=True)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a file with their numbers, each with its end."""
    try:
        with _opened(path) as file:
            for number, line in enumerate(file, start=1):
                yield number, _decoded(path, number, line)
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise BadRequest(f"{path} is not a complete {path.suffix} file: {error}.", "Fetch it again.") from error
    except OSError as error:
        raise BadRequest(f"{path} can't be read: {error.strerror or error}.") from error


def _opened(path: Path) -> IO[bytes]:
    opener = _OPEN.get(path.suffix.lower())
    if opener is None:
        return path.open("rb")
    return opener(path, "rb")  # type: ignore[operator, no-any-return]


def _decoded(path: Path, number: int, line: bytes) -> str:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRequest(
            f"{path}:{number}: byte 0x{line[error.start]:02x} at offset {error.start} of the line is not valid UTF-8.",
            "Save the file as UTF-8.",
        ) from None
    return text.removeprefix("\ufeff") if number == 1 else text
