"""Data sets: a reference becomes records of one kind, checked line by line.

References are paths, ``builtin:NAME``, ``hub:owner/name[:config]`` or rows given in Python. Nothing is dropped
silently: a line that can't be used is an error that names it. Out of scope: streaming sets that exceed memory.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from posttrain.core.errors import BadRequest, Failure, did_you_mean
from posttrain.data.record import Labelled, Record, content, kind_of, kinds
from posttrain.data.rows import Row, file_format, refuse_half_characters, rows_of, with_class_names
from posttrain.data.shapes import build, expand, rename, sniff

_BUILTIN = Path(__file__).parent / "builtin"


@dataclass(frozen=True)
class Dataset:
    """Records of one kind.

    Attributes:
        records: The records, in the file's order.
        kind: Their kind, one of `posttrain.data.record.kinds`.
        source: The reference they were read from.
        columns: The column mapping they were read with.
    """

    records: list[Record]
    kind: str
    source: str
    columns: dict[str, str] = field(default_factory=dict)

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the records' content in order, 64 hex digits; the same whatever file format they came in."""
        digest = hashlib.sha256()
        for record in self.records:
            digest.update(content(record).encode() + b"\n")
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def __getitem__(self, index: int) -> Record:
        return self.records[index]


def read(
    reference: str | Path | list[dict[str, Any]],
    *,
    kind: str | None = None,
    columns: dict[str, str] | None = None,
    split: str | None = None,
    limit: int | None = None,
    lines: bool = False,
) -> Dataset:
    """Read a data set.

    Args:
        reference: A path (.jsonl, .json, .csv, .tsv, .conll, .parquet, .txt, .md; also .gz, .bz2, .xz of these), a
            folder with one such file per split, ``builtin:NAME``, ``hub:owner/name[:config]``, or a list of rows.
        kind: The kind of record to make; found out from the columns if None.
        columns: Maps names that the kinds use (``prompt``, ``label`` …) to the file's own.
        split: The split of a hub set (``train`` if None), of a folder, or the key of the list inside a JSON object.
        limit: Take only the first so many records.
        lines: Make one Text of each non-blank line of plain text; otherwise the whole file is one Text.

    Returns:
        At least one record.

    Raises:
        BadRequest: If there is no such set, it is empty, or a line of it can't be used; names file and line.
        Failure: If the hub can't be reached.
    """
    return _read(reference, kind, columns or {}, split, limit, lines, None)


def read_with_rows(
    reference: str | Path | list[dict[str, Any]],
    *,
    kind: str | None = None,
    columns: dict[str, str] | None = None,
    split: str | None = None,
    limit: int | None = None,
    lines: bool = False,
) -> tuple[Dataset, list[dict[str, Any]]]:
    """The same as `read`, with the row that each record was made of, its columns renamed as `columns` says.

    For whoever writes a set again and keeps what the records don't hold.
    """
    kept: list[dict[str, Any]] = []
    return _read(reference, kind, columns or {}, split, limit, lines, kept), kept


def _read(
    reference: str | Path | list[dict[str, Any]],
    kind: str | None,
    columns: dict[str, str],
    split: str | None,
    limit: int | None,
    lines: bool,
    kept: list[dict[str, Any]] | None,
) -> Dataset:
    if kind is not None and kind not in kinds():
        raise BadRequest(f"There is no kind of record '{kind}'.", did_you_mean(kind, kinds()))
    if limit is not None and limit < 1:
        raise BadRequest(f"limit must be at least 1, not {limit}.")
    source, rows, typed = _open(reference, kind, split, lines)
    expanded = (pair for origin, row in rows for pair in expand(origin, row))
    records: list[Record] = []
    shape = None
    for origin, row in islice(expanded, limit):
        row = rename(row, columns, origin) if columns else row
        shape = shape or sniff(origin, row, kind)
        records.append(build(shape, origin, row))
        if kept is not None:
            kept.append(row)
    if not records:
        raise BadRequest(f"{source} has no records.", "Check that it is the right file and that writing it ended.")
    found = kind_of(records[0])
    for record in records:
        if kind_of(record) != found:
            raise BadRequest(
                f"{record.origin}: a {kind_of(record)} record among {found} records.", "Split the file in two."
            )
    return Dataset(records if typed else _numbers(records), found, source, columns)


def _open(
    reference: str | Path | list[dict[str, Any]], kind: str | None, split: str | None, lines: bool
) -> tuple[str, Iterator[Row], bool]:
    """The reference as text, its rows, and whether the rows' values have types of their own (CSV's have none)."""
    if isinstance(reference, list):
        return "rows", _given(reference), True
    text = str(reference)
    if text.startswith("hub:"):
        return text, _hub(text.removeprefix("hub:"), split or "train"), True
    path = _builtin(text.removeprefix("builtin:")) if text.startswith("builtin:") else _file(Path(text), split)
    form = file_format(path, kind)
    if split and form != ".json" and not Path(text).is_dir():
        raise BadRequest(f"{text} has no splits, so there is no split '{split}'.", "Leave split out.")
    return (
        text,
        rows_of(path, form, split=split if form == ".json" else None, lines=lines),
        form not in (".csv", ".tsv"),
    )


def _given(rows: list[dict[str, Any]]) -> Iterator[Row]:
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise BadRequest(f"rows:{number}: expected a mapping of columns to values, not {type(row).__name__}.")
        refuse_half_characters(row, f"rows:{number}")
        yield f"rows:{number}", row


def _builtin(name: str) -> Path:
    known = {path.stem: path for path in _BUILTIN.iterdir() if path.suffix in (".jsonl", ".txt")}
    if name not in known:
        raise BadRequest(f"There is no built-in data set '{name}'.", did_you_mean(name, known))
    return known[name]


def _file(path: Path, split: str | None) -> Path:
    if path.is_file():
        return path
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.is_file())
        fitting = [p for p in files if split and p.name.split(".")[0] == split]
        if len(fitting) == 1:
            return fitting[0]
        held = ", ".join(p.name for p in files[:20]) or "no files"
        raise BadRequest(
            f"{path} is a folder{f' without one file for split {split}' if split else ''}.", f"It holds {held}."
        )
    if path.exists():
        raise BadRequest(
            f"{path} is a pipe or a device; a data set is read more than once, so it must be a file.",
            "Write it to a file first.",
        )
    if not path.parent.is_dir():
        hint = f"For a set from the hub, write hub:{path}." if len(path.parts) == 2 else ""
        raise BadRequest(f"{path} doesn't exist, nor does its folder {path.parent}.", hint)
    names = [p.name for p in path.parent.iterdir() if p.is_file()]
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5)
    raise BadRequest(f"{path} doesn't exist.", f"Near it: {', '.join(near)}." if near else "")


def _hub(name: str, split: str) -> Iterator[Row]:
    loaded = _hub_set(name, split)
    features = loaded.features.to_dict()
    for number, row in enumerate(loaded, start=1):
        origin = f"hub:{name}/{split}:{number}"
        yield origin, with_class_names(row, features, origin)


def hub_rows(name: str, split: str) -> Iterator[Row]:
    """The rows of a set on the hub as they are, classes as numbers.

    Args:
        name: ``owner/name`` or ``owner/name:config``.
        split: Which split.

    Raises:
        BadRequest: If there is no such set.
        Failure: If the hub can't be reached.
    """
    for number, row in enumerate(_hub_set(name, split), start=1):
        yield f"hub:{name}/{split}:{number}", dict(row)


def _hub_set(name: str, split: str) -> Any:
    repository, _, config = name.partition(":")
    import datasets

    try:
        return datasets.load_dataset(repository, config or None, split=split)
    except ConnectionError as error:
        raise Failure(
            f"hub:{name} is not in the local cache and the hub can't be reached: {error}.",
            "Connect, or give a file; HF_ENDPOINT names a mirror and HF_HOME a cache filled elsewhere.",
        ) from error
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise BadRequest(
            f"hub:{name} can't be read: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        ) from error


def _numbers(records: list[Record]) -> list[Record]:
    """CSV's labels as numbers, where all of them are: whole numbers name classes, others are values to predict."""
    labels = [record.labels for record in records if isinstance(record, Labelled)]
    if len(labels) != len(records):
        return records
    for number in (int, float):
        try:
            values = [number(label) for label in labels]  # type: ignore[arg-type]
        except ValueError:
            continue
        return [replace(record, labels=value) for record, value in zip(records, values)]  # type: ignore[type-var,arg-type]
    return records


def split_off(dataset: Dataset, size: float, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Take validation records out of a set, at random; both parts keep the file's order.

    Args:
        dataset: The set.
        size: How many records to take (1 or more), or which share of them (below 1).
        seed: The same seed takes the same records.

    Returns:
        What is left for training, and what was taken.

    Raises:
        BadRequest: If one part would be empty.
    """
    count = round(len(dataset) * size) if isinstance(size, float) and size < 1 else int(size)
    if not 0 < count < len(dataset):
        raise BadRequest(
            f"Taking {size} of {len(dataset)} records ({dataset.source}) for validation leaves one part empty.",
            "Give a share between 0 and 1 or a smaller number.",
        )
    taken = set(random.Random(seed).sample(range(len(dataset)), count))
    parts: tuple[list[Record], list[Record]] = ([], [])
    for index, record in enumerate(dataset):
        parts[index in taken].append(record)
    return replace(dataset, records=parts[0]), replace(dataset, records=parts[1])


def deduplicate(dataset: Dataset) -> tuple[Dataset, int]:
    """Keep the first of records that say the same, up to letter case and runs of white space.

    Returns:
        The set without the repeats, and how many were removed.
    """
    first: dict[bytes, Record] = {}
    for record in dataset:
        first.setdefault(fingerprint(record), record)
    return replace(dataset, records=list(first.values())), len(dataset) - len(first)


def fingerprint(record: Record) -> bytes:
    """What two records share when they say the same, up to letter case and white space."""
    return hashlib.sha256(json.dumps(_normalized(json.loads(content(record)))).encode()).digest()


def _normalized(value: Any) -> Any:
    if isinstance(value, str):
        return " ".join(value.casefold().split())
    if isinstance(value, list):
        return [_normalized(item) for item in value]
    if isinstance(value, dict):
        return {key: _normalized(item) for key, item in value.items()}
    return value
