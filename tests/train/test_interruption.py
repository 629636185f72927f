"""Interruption: the first signal only sets a flag, the second one interrupts, and the old handlers come back."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from posttrain.train.interruption import interruptible


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_first_and_second_signal(number):
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), interruptible() as asked:
        assert not asked()
        os.kill(os.getpid(), number)
        assert asked()
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_outside_the_main_thread_signals_stay_as_they_are():
    """Python allows handlers in the main thread only."""
    before, found = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        with interruptible() as asked:
            found.append((asked(), signal.getsignal(signal.SIGINT) is before))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(False, True)]
