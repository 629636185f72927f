"""Stopping a run from the keyboard or by SIGTERM without losing the step it is in."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from posttrain.core import events


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Inside the block the first Ctrl-C (or SIGTERM) only sets a flag; a second one interrupts at once."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    asked = False
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        events.message("Stopping after this step; press Ctrl-C again to stop at once.", level="warning")

    for number in before:
        signal.signal(number, on_signal)
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
