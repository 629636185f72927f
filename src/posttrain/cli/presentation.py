"""Results for people: figures in a table, before beside after, lists as tables, long texts in full.

The general form of every command's JSON object. Units are read off the names as in the report.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from posttrain.pipeline.quantities import is_number, label, show, show_column

_BEFORE, _AFTER = "_before", "_after"
_FILE_WIDTH = 10_000  # nothing is wrapped when stdout is a file or a pipe


def write(*parts: RenderableType) -> None:
    """Print texts and tables to standard output; without colours and padding when it is a file or a pipe."""
    if sys.stdout.isatty():
        Console(highlight=False).print(*parts, sep="\n")
        return
    console = Console(file=io.StringIO(), width=_FILE_WIDTH, highlight=False, color_system=None)
    console.print(*parts, sep="\n")
    for line in console.file.getvalue().splitlines():  # type: ignore[attr-defined]
        print(line.rstrip())


def present(result: Mapping[str, Any], title: str = "") -> None:
    """Print a result.

    Args:
        result: JSON-able.
        title: A line above it.
    """
    write(*_parts(result, title))


def _parts(result: Mapping[str, Any], title: str) -> Iterator[Table | Text]:
    changes = [k.removesuffix(_BEFORE) for k in result if k.endswith(_BEFORE) and _counterpart(k) in result]
    paired = {name + end for name in changes for end in (_BEFORE, _AFTER)}
    plain = {key: value for key, value in result.items() if key not in paired and not _is_nested(value)}
    if title:
        yield Text(title, "bold")
    if plain:
        yield _figures(plain)
    if changes:
        yield _before_and_after(result, changes)
    for key, value in result.items():
        if isinstance(value, Mapping):
            yield from _parts(value, label(key))
        elif _is_nested(value):
            yield Text(label(key), "bold")
            yield table_of(value)


def _counterpart(key: str) -> str:
    return key.removesuffix(_BEFORE) + _AFTER


def _is_nested(value: Any) -> bool:
    """Whether a value deserves a table of its own: a mapping, or a list of mappings."""
    if isinstance(value, Mapping):
        return bool(value)
    return isinstance(value, (list, tuple)) and bool(value) and all(isinstance(item, Mapping) for item in value)


def _figures(values: Mapping[str, Any]) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column()
    grid.add_column(overflow="fold")
    for key, value in values.items():
        grid.add_row(Text(label(key), "cyan"), Text(show(value, key)))
    return grid


def _before_and_after(result: Mapping[str, Any], names: Sequence[str]) -> Table:
    table = _table("", "before", "after", "change", right=(1, 2, 3))
    for name in names:
        before, after = result[name + _BEFORE], result[name + _AFTER]
        change = (
            f"{100 * (after - before) / before:+.1f} %" if is_number(before) and is_number(after) and before else ""
        )
        table.add_row(label(name), show(before, name), show(after, name), change)
    return table


def table_of(rows: Sequence[Mapping[str, Any]]) -> Table:
    """One row a mapping, one column a key that any of them has."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    numeric = [i for i, column in enumerate(columns) if all(is_number(row.get(column, 0)) for row in rows)]
    table = _table(*map(label, columns), right=numeric)
    cells = [show_column([row.get(c) for row in rows], c, [""] * len(rows)) for c in columns]
    for row in zip(*cells):
        table.add_row(*map(Text, row))
    return table


def _table(*columns: str, right: Sequence[int] = ()) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index in right else "left", overflow="fold")
    return table


def present_run(summary: Mapping[str, Any]) -> None:
    """Print a run: each step with its time and its figures, and where the report lies."""
    table = _table("step", "", "time", "result", right=(2,))
    for step in summary["steps"]:
        state = "unchanged" if step["skipped"] else step["verb"]
        table.add_row(
            step["name"],
            state,
            show(step["seconds"], "seconds"),
            Text(step.get("headline") or _headline(step["result"])),
        )
    write(table, "", f"Report: {summary['report']}")


def _headline(result: Mapping[str, Any]) -> str:
    """The first few plain figures of a result; those of the first mapping inside when it has none."""
    figures = {key: value for key, value in result.items() if is_number(value)}
    if not figures:
        inner = next((value for value in result.values() if isinstance(value, Mapping)), None)
        return _headline(inner) if inner else ""
    return ", ".join(f"{label(key)} {show(value, key)}" for key, value in list(figures.items())[:3])
