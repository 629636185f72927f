"""Progress on standard error: a live bar on a terminal, an occasional line in a log, nothing when quiet.

It reads `posttrain.core.events` and keeps what is running; how that is drawn is one of two small classes, here the one
for logs and in `live_progress` the one for terminals.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

from posttrain.core.events import Event
from posttrain.pipeline.quantities import duration, label, show

_SECONDS_BETWEEN_LINES = 5.0


@dataclass
class Running:
    """A task under way.

    Attributes:
        name: Its name.
        unit: What it counts, plural.
        total: Number of units, if known.
        done: Units done.
        done_before: Units that were done when it started, as in resumed work.
        started: Seconds since the epoch.
        seen: When it last advanced.
        values: The last numbers it reported.
        shown: When it was last written to a log.
    """

    name: str
    unit: str
    total: float | None
    done: float
    done_before: float
    started: float
    seen: float
    values: dict[str, Any] = field(default_factory=dict)
    shown: float = 0.0

    def state(self) -> str:
        """How far it is, how fast it goes, how long it still takes and its last numbers."""
        parts = [self._amount(self.done, *([self.total] if self.total else []))]
        elapsed, newly = self.seen - self.started, self.done - self.done_before
        if elapsed > 0 and newly > 0:
            parts.append(f"{self._amount(newly / elapsed)}/s")
            if self.total and self.total > self.done:
                parts.append(f"{duration((self.total - self.done) * elapsed / newly)} left")
        return ", ".join([*parts, *self._numbers()])

    def summary(self, seconds: float, ok: bool) -> str:
        """What is left to say when it is over."""
        parts = [f"{'done' if ok else 'stopped'} in {duration(seconds)}"]
        if self.done:
            parts.append(self._amount(self.done))
        return ", ".join([*parts, *self._numbers()])

    def _amount(self, *values: float) -> str:
        """Amounts of the unit, as in ``60 of 100 steps``."""
        if self.unit == "bytes":
            return " of ".join(show(value, "bytes") for value in values)
        decimals = [0 if value >= 100 or value == int(value) else 1 for value in values]
        return " of ".join(f"{value:,.{digits}f}" for value, digits in zip(values, decimals)) + f" {self.unit}"

    def _numbers(self) -> list[str]:
        return [f"{label(name)} {show(value, name)}" for name, value in self.values.items()]


class Drawing(Protocol):
    """How running tasks are shown."""

    def start(self, task: Running) -> None:
        """A task began."""

    def advance(self, task: Running) -> None:
        """It went on."""

    def end(self, task: Running, seconds: float, ok: bool) -> None:
        """It is over."""

    def say(self, text: str, level: str) -> None:
        """A note for the user; level is ``info``, ``warning`` or ``step``, the heading of what follows."""

    def close(self) -> None:
        """Leave the terminal as it was."""


class Log:
    """Lines for a file or a pipe: one at most every few seconds a task, and one at its end."""

    def start(self, task: Running) -> None:
        """Say nothing until there is something to say."""
        task.shown = task.started

    def advance(self, task: Running) -> None:
        """Write a line if the last is old enough."""
        if task.seen - task.shown >= _SECONDS_BETWEEN_LINES:
            task.shown = task.seen
            self.say(f"{task.name}: {task.state()}", "info")

    def end(self, task: Running, seconds: float, ok: bool) -> None:
        """Write the last line."""
        self.say(f"{task.name}: {task.summary(seconds, ok)}", "info")

    def say(self, text: str, level: str) -> None:
        """Write one line."""
        print(f"Warning: {text}" if level == "warning" else text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Nothing to restore."""


class Console:
    """The listener that shows progress and notes to the user.

    Args:
        quiet: Show nothing.
    """

    def __init__(self, quiet: bool = False) -> None:
        self._running: dict[str, Running] = {}
        self._lock = threading.Lock()  # work may report from several threads
        self._drawing: Drawing | None = None if quiet else _drawing()
        self._bars_shown = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._drawing is not None:
            self._drawing.close()

    @contextmanager
    def cleared(self) -> Iterator[None]:
        """A block in which no progress is drawn; notes still are."""
        with self._lock:
            if self._drawing is not None:
                self._drawing.close()
            self._bars_shown = False
        try:
            yield
        finally:
            self._bars_shown = True

    def __call__(self, event: Event) -> None:
        """Take one event in."""
        drawing = self._drawing
        if drawing is None:
            return
        with self._lock:
            if event.kind == "message":
                drawing.say(event.name, event.fields["level"])
            elif event.kind == "start":
                self._start(event, drawing)
            elif event.name in self._running and event.kind == "advance":
                task = self._running[event.name]
                task.done, task.total, task.seen = event.fields["done"], event.fields["total"], event.time
                task.values = event.fields["values"] or task.values
                if self._bars_shown:
                    drawing.advance(task)
            elif event.name in self._running:
                task = self._running.pop(event.name)
                if self._bars_shown:
                    drawing.end(task, event.fields["seconds"], event.fields["ok"])

    def _start(self, event: Event, drawing: Drawing) -> None:
        fields, now = event.fields, event.time
        task = Running(event.name, fields["unit"], fields["total"], fields["done"], fields["done"], now, now)
        self._running[event.name] = task
        if self._bars_shown:
            drawing.start(task)


def _drawing() -> Drawing:
    if not sys.stderr.isatty():
        return Log()
    from posttrain.cli.live_progress import LiveProgress

    return LiveProgress()
