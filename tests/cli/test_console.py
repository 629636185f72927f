"""Progress: what a log shows, what a terminal shows, and silence."""

from __future__ import annotations

import io
import sys

import pytest

from posttrain.cli.console import Console, Running
from posttrain.core import events
from posttrain.core.events import Event


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


def test_state_says_how_far_how_fast_and_how_long():
    # 30 of 100 steps in 10 s, 10 of them done before: 20 new in 10 s = 2 a second, 70 left = 35 s.
    task = Running("Train", "steps", 100, done=30, done_before=10, started=0, seen=10, values={"loss": 2.5})
    assert task.state() == "30 of 100 steps, 2 steps/s, 35 s left, loss 2.5"


def test_state_without_a_total_or_in_bytes():
    assert Running("Read", "rows", None, done=3, done_before=0, started=0, seen=2).state() == "3 rows, 1.5 rows/s"
    download = Running("Get", "bytes", 3e6, done=1e6, done_before=0, started=0, seen=2)
    assert download.state() == "1.00 MB of 3.00 MB, 500.0 MB/s, 4.0 s left".replace("500.0 MB", "0.50 MB")


def test_a_log_gets_a_line_every_five_seconds_and_one_at_the_end(capsys):
    console = Console()
    console(Event("start", "Train", 100.0, {"total": 60, "unit": "steps", "done": 0}))
    for second in range(1, 13):  # one step a second for twelve seconds: lines at 5 and 10
        fields = {"done": second, "total": 60, "unit": "steps", "values": {"loss": 1.0}}
        console(Event("advance", "Train", 100.0 + second, fields))
    console(Event("end", "Train", 112.0, {"seconds": 12.0, "ok": True}))
    assert capsys.readouterr().err.splitlines() == [
        "Train: 5 of 60 steps, 1 steps/s, 55 s left, loss 1",
        "Train: 10 of 60 steps, 1 steps/s, 50 s left, loss 1",
        "Train: done in 12 s, 12 steps, loss 1",
    ]


def test_an_interrupted_task_is_said_to_have_stopped(capsys):
    with Console() as console, events.listen(console), pytest.raises(ValueError), events.task("Train", 5) as task:
        task.advance()
        raise ValueError
    assert capsys.readouterr().err.startswith("Train: stopped in ")


def test_notes_and_warnings(capsys):
    with Console() as console, events.listen(console):
        events.message("a note")
        events.message("beware", "warning")
    assert capsys.readouterr().err == "a note\nWarning: beware\n"


def test_quiet_is_silent(capsys):
    with Console(quiet=True) as console, events.listen(console), events.task("Train", 1) as task:
        task.advance()
        events.message("beware", "warning")
    assert capsys.readouterr().err == ""


def test_cleared_hides_progress_but_not_notes(capsys):
    with Console() as console, events.listen(console):
        with console.cleared(), events.task("Generate", 1) as task:
            task.advance()
            events.message("a note")
        with events.task("Measure", 1) as task:
            task.advance()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "a note"
    assert [line.split(":")[0] for line in lines[1:]] == ["Measure"]


def test_a_terminal_gets_bars_that_vanish_and_a_line_for_each_finished_task(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with Console() as console, events.listen(console), events.task("Train", 4, "steps") as task:
        task.advance(loss=3.0)
        with events.task("Evaluate", 2, "rows") as inner:
            inner.advance(2)
        events.message("[note] with brackets")
        task.advance(3, loss=2.0)
    shown = terminal.getvalue()
    for line in ("Evaluate", "[note] with brackets", "Train", "4 steps, loss 2"):
        assert line in shown
    assert shown.rstrip().endswith("\x1b[?25h")  # the cursor is back
