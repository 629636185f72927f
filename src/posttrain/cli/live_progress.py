"""Live bars at the bottom of a terminal, through rich; finished tasks leave one line above them."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from posttrain.cli.console import Running


class LiveProgress:
    """Draws what is running; the display exists only while something is."""

    def __init__(self) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=16),
            # The state gives way when the terminal is narrow, never the name.
            TextColumn("{task.fields[state]}", markup=False, style="dim", table_column=Column(ratio=1, no_wrap=True)),
            console=Console(stderr=True),
            expand=True,
            transient=True,
        )
        self._bars: dict[str, TaskID] = {}

    def start(self, task: Running) -> None:
        """Add a bar; a task of the same name that is still under way loses its own."""
        if task.name in self._bars:
            self._progress.remove_task(self._bars[task.name])
        self._bars[task.name] = self._progress.add_task(task.name, total=task.total, completed=int(task.done), state="")
        self._progress.start()

    def advance(self, task: Running) -> None:
        """Move its bar."""
        if task.name in self._bars:
            self._progress.update(self._bars[task.name], completed=task.done, total=task.total, state=task.state())

    def end(self, task: Running, seconds: float, ok: bool) -> None:
        """Turn its bar into a line."""
        if task.name in self._bars:
            self._progress.remove_task(self._bars.pop(task.name))
        mark = Text("✓ ", "green") if ok else Text("✗ ", "red")
        self._print(Text.assemble(mark, task.name, (f" {task.summary(seconds, ok)}", "dim")))
        if not self._bars:
            self._progress.stop()

    def say(self, text: str, level: str) -> None:
        """Write a line above the bars."""
        shown = {"warning": Text(f"Warning: {text}", "yellow"), "step": Text(text, "bold")}
        self._print(shown.get(level, Text(text)))

    def close(self) -> None:
        """Take the bars away."""
        for bar in self._bars.values():
            self._progress.remove_task(bar)
        self._bars.clear()
        self._progress.stop()

    def _print(self, text: Text) -> None:
        self._progress.console.print(text, highlight=False, soft_wrap=True)
