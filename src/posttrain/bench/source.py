"""A task's data: files below a folder, or a set of the hub, read into items.

Where a folder is given nothing else is looked at, so a run never depends on what the hub holds today. A file is looked
for in the folder, in its subfolders and in theirs. Nothing is dropped silently but the rows that the task's file itself
excludes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from posttrain.bench.item import Item
from posttrain.bench.task import Selection, Source
from posttrain.core.errors import BadRequest, Failure
from posttrain.data.dataset import hub_rows
from posttrain.data.rows import Row, file_format, rows_of, whole_value

_BUILTIN = Path(__file__).parent / "builtin"
_COMPRESSED = ("", ".gz", ".bz2", ".xz")
_DEPTH = ("", "*/", "*/*/")


@dataclass(frozen=True)
class Read:
    """A split as it was found.

    Attributes:
        items: Its items, in order; at least one.
        split: Its name.
    """

    items: list[Item]
    split: str


def read_split(
    selection: Selection, splits: list[str], member: str | None, folder: Path | None, limit: int | None = None
) -> Read:
    """Read the first split of several that is there.

    Args:
        selection: The task.
        splits: Names of splits, in order of preference.
        member: The member whose data is wanted, for a task that has some.
        folder: Where its files lie; None to read from the hub.
        limit: Read only the first so many items.

    Raises:
        BadRequest: If none is there (says where it was looked for and where it can be had), or a row can't be used.
        Failure: If the hub can't be reached.
    """
    if folder is not None and not folder.is_dir():
        raise BadRequest(f"There is no data folder {folder}.", "Give --data the folder that holds the tasks' files.")
    looked_for: list[str] = []
    for split in splits:
        for source in selection.task.data[split]:
            place = source.model_copy(update=_named(source, member))
            files, patterns = find_files(place, folder)
            looked_for += patterns
            if files or (folder is None and place.hub is not None):
                items = _read(selection, place, files, split, member, limit)
                return Read(items, split)
    task = selection.task
    where = f"below {folder}" if folder is not None else "on the hub"
    raise BadRequest(
        f"{selection.name}: no data for {' or '.join(splits)} lies {where}; "
        f"looked for {', '.join(looked_for) or 'nothing, because no set is named'}.",
        f"It can be had from {task.homepage} ({task.license}).",
    )


def _read(
    selection: Selection, place: Source, files: list[Path], split: str, member: str | None, limit: int | None
) -> list[Item]:
    """The items of a source: its files, or its set on the hub where there are none."""
    try:
        rows = _file_rows(place, files) if files else hub_rows(place.hub or "", place.hub_split or split)
        items = list(islice(_items(selection, place, rows, member), limit))
    except Failure as failure:
        wanted = f" that holds {place.files[0]}" if place.files else ""
        raise Failure(
            failure.problem,
            f"Connect, or give --data a folder{wanted}; it can be had from {selection.task.homepage}.",
        ) from failure
    if not items:
        where = ", ".join(map(str, files)) or f"hub:{place.hub}"
        raise BadRequest(f"{selection.name}: {where} has no items.", "Check that it is the right file and whole.")
    return items


def _named(source: Source, member: str | None) -> dict[str, Any]:
    """What changes in a source for a member."""
    if member is None:
        return {}
    put: dict[str, Any] = {"files": [name.replace("{member}", member) for name in source.files]}
    put["beside"] = {column: name.replace("{member}", member) for column, name in source.beside.items()}
    return put | ({"hub": source.hub.replace("{member}", member)} if source.hub else {})


def find_files(source: Source, folder: Path | None) -> tuple[list[Path], list[str]]:
    """The files of a source below a folder, none if they aren't there, and what was looked for."""
    looked_for = []
    for name in source.files:
        if name.startswith("builtin:"):
            return [_BUILTIN / name.removeprefix("builtin:")], []
        if folder is None:
            continue
        looked_for.append(name)
        # The folder may itself be the one that the name begins with.
        for below in dict.fromkeys((name, name.removeprefix(f"{folder.resolve().name}/"))):
            for above in _DEPTH:
                for ending in _COMPRESSED:
                    if found := sorted(path for path in folder.glob(f"{above}{below}{ending}") if path.is_file()):
                        return found, looked_for
    return [], looked_for


def _file_rows(source: Source, files: list[Path]) -> Iterator[Row]:
    for file in files:
        rows = _grouped(file, source.lines) if source.lines else _table(file, source)
        yield from _with_columns(file, rows, source.beside) if source.beside else rows


def _table(file: Path, source: Source) -> Iterator[Row]:
    form = file_format(file, None)
    if not source.whole:
        return rows_of(file, form, header=source.columns)
    value = whole_value(file)
    if not isinstance(value, dict):
        raise BadRequest(f"{file} holds no JSON object.", "Check that it is the right file and whole.")
    return iter([(f"{file}:1", value)])


def _grouped(file: Path, names: list[str]) -> Iterator[Row]:
    """Plain text of which so many non-blank lines as there are names make one item."""
    lines = list(rows_of(file, ".txt", lines=True))
    if len(lines) % len(names):
        raise BadRequest(
            f"{file} has {len(lines)} lines, which is no multiple of {len(names)}: {', '.join(names)}.",
            "Check that it is the right file and whole.",
        )
    for begin in range(0, len(lines), len(names)):
        group = lines[begin : begin + len(names)]
        yield group[0][0], {name: row["text"] for name, (_, row) in zip(names, group)}


def _with_columns(file: Path, rows: Iterator[Row], beside: Mapping[str, str]) -> Iterator[Row]:
    """Rows with the lines of further files as columns."""
    known = list(rows)
    for column, name in beside.items():
        other = next(
            (file.parent / f"{name}{end}" for end in _COMPRESSED if (file.parent / f"{name}{end}").is_file()), None
        )
        if other is None:
            raise BadRequest(f"{file} needs {name} beside it, which isn't there.")
        values = [row["text"] for _, row in rows_of(other, ".txt", lines=True)]
        if len(values) != len(known):
            raise BadRequest(f"{other} has {len(values)} lines, {file} has {len(known)} rows.")
        known = [(origin, {**row, column: value}) for (origin, row), value in zip(known, values)]
    yield from known


def _items(selection: Selection, source: Source, rows: Iterator[Row], member: str | None) -> Iterator[Item]:
    own = {} if member is None else {"member": member}
    for origin, row in rows:
        for item in _expanded(Item({**row, **own}, origin, str(selection.file)), source.each):
            if source.keep is not None and not item.value(source.keep, "data.keep"):
                continue
            made: dict[str, Any] = {}
            for name, expression in source.fields.items():
                seen = Item({**made, **item.values}, item.origin, item.task)
                made[name] = seen.value(expression, f"data.fields.{name}")
            yield item.with_values(made) if made else item


def _expanded(item: Item, each: Mapping[str, str]) -> Iterator[Item]:
    """The items that a row makes: one for every element of the first list, and of the next within it."""
    if not each:
        yield item
        return
    name, *further = each
    key = f"data.each.{name}"
    elements = item.value(each[name], key)
    if not isinstance(elements, (list, tuple)):
        raise item.problem(key, f"it must give a list, not {elements!r}")
    for number, element in enumerate(elements):
        one = Item({**item.values, name: element}, f"{item.origin}[{number}]", item.task)
        yield from _expanded(one, {next_: each[next_] for next_ in further})


def content(items: list[Item]) -> str:
    """The items' values as one JSON text, for hashing."""
    rows = [dict(item.values) for item in items]
    return json.dumps(rows, sort_keys=True, ensure_ascii=False, default=str)
