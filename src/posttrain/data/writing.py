"""Records as JSON Lines that `posttrain.data.dataset.read` reads again as the same records."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from posttrain.core import files
from posttrain.data.record import Record


def row(record: Record) -> dict[str, Any]:
    """A record's columns; those without a value are left out, and so is the origin."""
    values = {each.name: getattr(record, each.name) for each in fields(record) if each.name != "origin"}
    return {name: value for name, value in values.items() if value is not None}


def write(records: Iterable[Record], path: Path | str) -> None:
    """Write records, one JSON object a line, atomically.

    Raises:
        Failure: If the disk is full or the file may not be written.
    """
    files.write_text(path, "".join(json.dumps(row(each), ensure_ascii=False) + "\n" for each in records))


def write_rows(rows: Iterable[Mapping[str, Any]], path: Path | str) -> None:
    """Write rows, one JSON object a line, atomically and without holding them all; what isn't finite becomes null.

    Raises:
        Failure: If the disk is full or the file may not be written.
    """
    with files.atomic_file(path) as temporary, temporary.open("w", encoding="utf-8") as handle:
        for each in rows:
            handle.write(json.dumps(files.jsonable(each), ensure_ascii=False) + "\n")
