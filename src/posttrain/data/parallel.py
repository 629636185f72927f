"""Texts in files that belong together line by line: predictions, and one or more files of references.

A file holds one text a line; a blank line is an empty text, for a model may well write nothing. A JSON Lines file
(``.jsonl``) holds one text a line too, as a JSON string or as an object's `text`, so that texts may have several lines;
in a file of references a list of strings gives several references. Only line feeds part lines, with or without a
carriage return. Files may be gzip-, bzip2- or xz-compressed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from posttrain.core.errors import BadRequest
from posttrain.data.dialogue import type_name
from posttrain.data.rows import file_format, json_value, text_of

# What has a header, or rows over several lines.
_TABLES = (".json", ".csv", ".tsv", ".conll", ".parquet")


def read_texts(path: Path) -> list[str]:
    """The texts of a file, one for each line.

    Raises:
        BadRequest: If there is no such file, it is empty, or a line can't be used; names file and line.
    """
    texts = []
    for number, each in enumerate(_lines(path), 1):
        if isinstance(each, list):
            raise BadRequest(f"{path}:{number}: a list of texts where one text is wanted.")
        texts.append(each)
    return texts


def read_references(paths: Sequence[Path], blank_allowed: bool = False) -> list[list[str]]:
    """The references of each row, from one or more files of equally many lines.

    Args:
        paths: At least one file.
        blank_allowed: Whether a row may have blank references only.

    Raises:
        BadRequest: As `read_texts` does, if files differ in length, or a row has no reference with any text.
    """
    files = [_lines(path) for path in paths]
    for path, lines in zip(paths[1:], files[1:]):
        refuse_unequal(paths[0], len(files[0]), path, len(lines))
    rows = [[text for each in row for text in (each if isinstance(each, list) else [each])] for row in zip(*files)]
    for number, row in enumerate(rows, 1):
        if not blank_allowed and not any(text.strip() for text in row):
            raise BadRequest(
                f"{paths[0]}:{number}: the reference is empty{' in all files' if len(paths) > 1 else ''}, "
                "so there is nothing to compare with.",
                "Remove the row from all files, or give it a reference.",
            )
    return rows


def refuse_unequal(first: Path | str, first_count: int, second: Path | str, second_count: int) -> None:
    """Refuse files that don't belong together.

    Raises:
        BadRequest: If the numbers differ; says both, and which file has which.
    """
    if first_count != second_count:
        raise BadRequest(
            f"{first} has {first_count} texts, but {second} has {second_count}.",
            "Line i of each file must be about the same input.",
        )


def _lines(path: Path) -> list[str | list[str]]:
    form = file_format(path, "text")
    if form in _TABLES:
        raise BadRequest(
            f"{path}: in a {form} file a line isn't one text.", "Write one text a line, or .jsonl with a text each."
        )
    text = text_of(path)
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    if not lines[-1]:
        lines.pop()  # what follows the last line feed is no line
    if not any(line.strip() for line in lines):
        raise BadRequest(f"{path} holds no text.", "Give one text a line.")
    if form != ".jsonl":
        return list(lines)
    return [_from_json(line, f"{path}:{number}") for number, line in enumerate(lines, 1)]


def _from_json(line: str, origin: str) -> str | list[str]:
    value = json_value(line, origin)
    if isinstance(value, dict) and "text" in value:
        value = value["text"]
    if isinstance(value, str) or (isinstance(value, list) and value and all(isinstance(each, str) for each in value)):
        return value
    raise BadRequest(f"{origin}: expected a text or an object with `text`, found {type_name(value)}.")
