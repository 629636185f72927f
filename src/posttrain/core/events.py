"""One stream of progress: the console, the log file and the report all read it.

Work announces itself with `task` and `message`; whoever wants to show or keep it subscribes with `listen`. The working
code never knows who listens, so a loop is the same under a terminal, a server or a test.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["start", "advance", "end", "message"]


@dataclass(frozen=True)
class Event:
    """Something that happened.

    Attributes:
        kind: ``start`` (fields total, unit, done), ``advance`` (done, total, unit, values), ``end`` (seconds, ok),
            ``message`` (level).
        name: The task's name; for a message, the text.
        time: Seconds since the epoch.
        fields: What belongs to the kind.
    """

    kind: Kind
    name: str
    time: float
    fields: dict[str, Any] = field(default_factory=dict)


Listener = Callable[[Event], None]
_listeners: list[Listener] = []


@contextmanager
def listen(listener: Listener) -> Iterator[None]:
    """Call `listener` with every event until the block ends."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def emit(kind: Kind, name: str, **fields: Any) -> None:
    """Send one event to every listener, in the order they subscribed."""
    event = Event(kind, name, time.time(), fields)
    for listener in list(_listeners):
        listener(event)


def message(text: str, level: Literal["info", "warning"] = "info") -> None:
    """Say something to the user that is neither a result nor an error."""
    emit("message", text, level=level)


class Task:
    """A running piece of work with a known or unknown total."""

    def __init__(self, name: str, total: float | None, unit: str) -> None:
        self.name = name
        self.total = total
        self.unit = unit
        self.done = 0.0

    def advance(self, amount: float = 1, **values: Any) -> None:
        """Report progress; `values` are numbers worth a curve (loss, learning rate …)."""
        self.done += amount
        emit("advance", self.name, done=self.done, total=self.total, unit=self.unit, values=values)

    def over(self, items: Any) -> Iterator[Any]:
        """Iterate and advance by one after each item."""
        for item in items:
            yield item
            self.advance()


@contextmanager
def task(name: str, total: float | None = None, unit: str = "steps", done: float = 0) -> Iterator[Task]:
    """Announce a piece of work; its end is announced however the block is left.

    Args:
        name: Shown to the user.
        total: Number of units, if known; the time left is derived from it.
        unit: What is counted, plural.
        done: Units already done, for work that resumes.
    """
    running = Task(name, total, unit)
    running.done = done
    start = time.perf_counter()
    emit("start", name, total=total, unit=unit, done=done)
    ok = False
    try:
        yield running
        ok = True
    finally:
        emit("end", name, seconds=time.perf_counter() - start, ok=ok)
