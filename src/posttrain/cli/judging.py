"""Asking a person to compare answers: each question is shown, a key or a line is read, and the judgement is stored.

Everything is written to standard error, since standard output belongs to the result. On a terminal a choice between
two answers is one key; rankings of more, and input that isn't a terminal, are lines. Keys pressed before a question is
shown are discarded, so that nobody judges what they haven't seen.
"""

from __future__ import annotations

import os
import re
import statistics
import sys
import time
from collections.abc import Callable, Sequence

from rich.console import Console, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from posttrain.align.feedback import OVERALL, FeedbackStore, Question
from posttrain.align.feedback_items import LETTERS, Answer
from posttrain.data.dialogue import as_text
from posttrain.pipeline.quantities import duration

_COLUMN = 44  # narrower than this, answers stand below each other

_QUESTIONS = {
    OVERALL: "Which answer is better?",
    "helpful": "Which answer is more helpful?",
    "harmless": "Which answer is less harmful?",
    "honest": "Which answer is more honest?",
}

# Characters that would move the cursor or change colours are shown as their pictures.
_VISIBLE = {code: 0x2400 + code for code in range(32) if code not in (9, 10)} | {
    127: 0x2421,
    **dict.fromkeys(range(0x80, 0xA0), 0xFFFD),
}

Reader = Callable[[Question], str | None]
"""Gives what the person typed, None when nothing more will come."""


class Judging:
    """One person's way through questions.

    Args:
        store: Where judgements go.
        questions: What to ask, in order.
        read: Gives the answers, `read_line` or `read_key`.
        console: Where questions are shown.
    """

    def __init__(self, store: FeedbackStore, questions: Sequence[Question], read: Reader, console: Console) -> None:
        self._store, self._questions, self._read, self._console = store, questions, read, console
        self._places: list[int] = []  # of the judged questions, in the order of judging
        self._seconds: list[float] = []

    @property
    def judged(self) -> int:
        """How many questions were judged, without those taken back."""
        return len(self._places)

    def run(self) -> None:
        """Ask until all questions are judged or skipped, the person quits, or the input ends."""
        place: int | None = 0
        while place is not None and place < len(self._questions):
            self._console.print(*_shown(self._questions[place], self._progress(place), self._console.width), sep="\n")
            place = self._ask(place)

    def _ask(self, place: int) -> int | None:
        """Read until something is understood; the next question's place, None to end."""
        question = self._questions[place]
        start = time.monotonic()
        while True:
            typed = self._read(question)
            if typed is None or typed.strip().lower() == "q":
                return None
            word = typed.strip().lower()
            if word == "s":
                self._say("skipped")
                return place + 1
            if word == "u":
                if self._places:
                    return self._undo()
                self._say("There is nothing to undo in this session.")
                continue
            ranks = parse_ranks(word, len(question.answers))
            if ranks is None:
                self._say(f"{typed.strip()!r} isn't understood. Allowed: {_allowed(question)}.")
                continue
            seconds = time.monotonic() - start
            self._store.judge(question, ranks, seconds)
            self._places.append(place)
            self._seconds.append(seconds)
            self._say(_verdict(ranks))
            return place + 1

    def _undo(self) -> int:
        place = self._places.pop()
        self._seconds.pop()
        self._store.withdraw(self._questions[place])
        self._say("The last judgement is taken back.")
        return place

    def _progress(self, place: int) -> str:
        """As in ``3 of 20 · 2 min left``."""
        total = len(self._questions)
        progress = f"{place + 1} of {total}"
        # The median forgets a break for coffee.
        left = (total - place) * statistics.median(self._seconds) if self._seconds else 0.0
        if left < 1:
            return progress
        return f"{progress} · {f'{round(left / 60)} min' if 60 <= left < 3600 else duration(left)} left"

    def _say(self, text: str) -> None:
        self._console.print(Text(text.translate(_VISIBLE), "dim"), soft_wrap=True)


def parse_ranks(word: str, answers: int) -> list[int] | None:
    """The rank of each answer, 1 the best, from what was typed; None if it isn't understood.

    `=` alone calls all answers equal. Of two answers ``a`` or ``b`` is the better one. More are listed with the best
    first and `=` between equal ones, as in ``b a=c``.
    """
    if word == "=":
        return [1] * answers
    letters = LETTERS[:answers].lower()
    if answers == 2 and word in ("a", "b"):
        return [1, 2] if word == "a" else [2, 1]
    order = re.sub(r"[\s,>]", "", word)
    if sorted(order.replace("=", "")) != list(letters) or not re.fullmatch("[a-z](=?[a-z])*", order):
        return None
    groups = re.findall("[a-z](?:=[a-z])*", order)
    return [next(rank for rank, group in enumerate(groups, start=1) if letter in group) for letter in letters]


def _verdict(ranks: Sequence[int]) -> str:
    groups = ("=".join(LETTERS[place] for place, rank in enumerate(ranks) if rank == each) for each in sorted({*ranks}))
    return " > ".join(groups)


def _allowed(question: Question) -> str:
    choice = "a, b" if len(question.answers) == 2 else f"a ranking such as {_example(len(question.answers))}"
    return f"{choice}, = (tie), s (skip), u (undo the last), q (quit)"


def _example(answers: int) -> str:
    letters = LETTERS[:answers].lower()
    return " ".join([letters[1], f"{letters[0]}={letters[2]}", *letters[3:]])


def _shown(question: Question, progress: str, width: int) -> list[RenderableType]:
    """The question: how far, the prompt, the answers and what may be typed."""
    asked = _QUESTIONS.get(question.criterion, f"Which answer is better? Criterion: {question.criterion}")
    panels = [
        Panel(_text(answer), title=letter, title_align="left", border_style="cyan")
        for letter, answer in zip(LETTERS, question.answers)
    ]
    answers: list[RenderableType] = list(panels)
    if width // len(panels) >= _COLUMN:
        grid = Table.grid(expand=True)
        for _ in panels:
            grid.add_column(ratio=1)
        grid.add_row(*panels)
        answers = [grid]
    return [
        "",
        Text(progress, "dim"),
        Panel(_text(question.prompt), title="prompt", title_align="left", border_style="dim"),
        *answers,
        Text.assemble((asked, "bold"), "  ", (_allowed(question), "dim")),
    ]


def _text(value: Answer) -> Text:
    text = as_text(value).replace("\r\n", "\n").translate(_VISIBLE)
    return Text(text) if text.strip() else Text("(empty)", "dim italic")


def read_line(question: Question) -> str | None:
    """A line of standard input; None at its end."""
    return sys.stdin.readline() or None


def read_key(question: Question) -> str | None:
    """A key for a choice between two answers, a line for a ranking; None after Ctrl-D."""
    try:
        import termios
        import tty
    except ImportError:  # no Unix
        return read_line(question)
    if len(question.answers) > 2:
        return read_line(question)
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    try:
        tty.setcbreak(terminal)
        while True:
            pressed = os.read(terminal, 64)  # all bytes of an arrow key at once
            if pressed in (b"", b"\x04"):
                return None
            if pressed.strip():  # Enter out of habit says nothing
                return pressed.decode(errors="replace")
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
