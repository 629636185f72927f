"""Bars on a terminal, read as the terminal would show them."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable, Iterator

import pytest

from posttrain.cli.console import Running
from posttrain.cli.live_progress import LiveProgress

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True

    def take(self) -> list[str]:
        """The lines written since the last call, without colours and cursor movements."""
        text = _CONTROL.sub("", self.getvalue())
        self.seek(0)
        self.truncate()
        return [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]


Screen = Callable[..., tuple[LiveProgress, Terminal]]


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Screen]:
    """Makes a display and the terminal it draws on; closes it after the test."""
    displays: list[LiveProgress] = []

    def make(columns: int = 100) -> tuple[LiveProgress, Terminal]:
        terminal = Terminal()
        monkeypatch.setattr(sys, "stderr", terminal)  # here, since pytest sets the stream anew after the fixtures
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", str(columns))
        displays.append(LiveProgress())
        return displays[-1], terminal

    yield make
    for display in displays:
        display.close()


def running(name: str, done: float = 0, total: float | None = 4) -> Running:
    """A task that began at 0 s and is seen at 10 s."""
    return Running(name, "steps", total, done=done, done_before=0, started=0.0, seen=10.0)


def drawn(live: LiveProgress, terminal: Terminal) -> list[str]:
    """The lines below a new note: a note is written above the bars, which are then drawn again."""
    live._progress.refresh()  # what a timer does ten times a second
    terminal.take()
    live.say("note", "info")
    lines = terminal.take()
    return lines[lines.index("note") + 1 :]


def test_a_bar_shows_the_name_and_the_state(screen: Screen) -> None:
    live, terminal = screen()
    task = running("Train [lora]")  # brackets are markup to rich
    live.start(task)
    task.done, task.values = 1, {"loss": 2.5}
    live.advance(task)
    (line,) = drawn(live, terminal)
    assert "Train [lora]" in line
    # 1 step in 10 s, 3 left: 30 s
    assert line.endswith("1 of 4 steps, 0.1 steps/s, 30 s left, loss 2.5")


def test_on_a_narrow_terminal_the_state_gives_way_and_the_name_stays(screen: Screen) -> None:
    live, terminal = screen(columns=48)
    task = running("Measure perplexity", done=1)
    live.start(task)
    live.advance(task)
    (line,) = drawn(live, terminal)  # one line: nothing wraps
    assert "Measure perplexity" in line
    assert line.endswith("…")
    assert len(line) <= 48


def test_a_finished_task_leaves_a_line_and_the_others_their_bars(screen: Screen) -> None:
    live, terminal = screen()
    outer, inner = running("Train"), running("Evaluate", done=2)
    live.start(outer)
    live.start(inner)
    live.end(inner, 3.0, ok=True)
    lines = terminal.take()
    assert "✓ Evaluate done in 3.0 s, 2 steps" in lines
    (line,) = drawn(live, terminal)
    assert "Train" in line
    live.end(outer, 12.0, ok=False)
    assert "✗ Train stopped in 12 s" in terminal.take()
    assert drawn(live, terminal) == []


def test_the_display_lives_only_while_something_runs(screen: Screen) -> None:
    """The cursor is hidden while bars are drawn, and shown again."""
    live, terminal = screen()
    live.say("before", "info")
    assert terminal.getvalue() == "before\n"
    task = running("Train")
    live.start(task)
    assert "\x1b[?25l" in terminal.getvalue()
    assert "\x1b[?25h" not in terminal.getvalue()
    live.end(task, 1.0, ok=True)
    assert terminal.getvalue().rindex("\x1b[?25h") > terminal.getvalue().rindex("\x1b[?25l")


def test_a_task_started_again_has_one_bar(screen: Screen) -> None:
    live, terminal = screen()
    live.start(running("Generate"))
    live.start(running("Generate"))
    assert len(drawn(live, terminal)) == 1
    live.end(running("Generate"), 1.0, ok=True)
    live.start(running("Train"))
    (line,) = drawn(live, terminal)
    assert "Train" in line


def test_closing_takes_all_bars_away_and_what_still_runs_stays_unseen(screen: Screen) -> None:
    live, terminal = screen()
    task = running("Train")
    live.start(task)
    live.close()
    live.advance(task)
    assert drawn(live, terminal) == []
    live.end(task, 1.0, ok=True)
    assert terminal.take() == ["✓ Train done in 1.0 s"]
    live.start(running("Measure"))
    (line,) = drawn(live, terminal)
    assert "Measure" in line


def test_notes_warnings_and_headings(screen: Screen) -> None:
    live, terminal = screen()
    live.say("a [note] of 3 tokens", "info")
    live.say("beware", "warning")
    live.say("1 of 2: train", "step")
    plain, warning, heading = terminal.getvalue().splitlines()
    assert plain == "a [note] of 3 tokens"  # no markup, no colours for numbers
    assert warning == "\x1b[33mWarning: beware\x1b[0m"
    assert heading == "\x1b[1m1 of 2: train\x1b[0m"


def test_a_long_note_is_left_to_the_terminal_to_wrap(screen: Screen) -> None:
    live, terminal = screen()
    live.say("word " * 60 + "end", "info")
    assert terminal.getvalue().count("\n") == 1
