"""The two errors a user may meet: a request that can't be carried out, and work that failed.

Both carry one sentence that says what is wrong and, where there is one, what to do. The command line prints them
without a traceback and exits with `exit_code`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PosttrainError(Exception):
    """Base of all errors meant for the user's eyes.

    Args:
        problem: One sentence: what is wrong, with file, line or key.
        suggestion: What to do about it.
    """

    exit_code = 1

    def __init__(self, problem: str, suggestion: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.suggestion = suggestion

    def __str__(self) -> str:
        return f"{self.problem} {self.suggestion}".strip()


class BadRequest(PosttrainError):
    """The request itself is wrong: a missing file, an unknown key, a malformed line. Exit code 2."""

    exit_code = 2


class Failure(PosttrainError):
    """The request was fine, the work failed: full disk, loss not a number, no network. Exit code 1."""


class Interrupted(PosttrainError):
    """The user pressed Ctrl-C; what was done so far has been saved. Exit code 130."""

    exit_code = 130


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A sentence that suggests the nearest known names, or lists them when none is near."""
    choices = sorted(known)
    written: dict[str, list[str]] = {}
    for choice in choices:
        written.setdefault(_folded(choice), []).append(choice)
    near = difflib.get_close_matches(_folded(name), written, n=3, cutoff=0.6)
    found = [choice for form in near for choice in written[form]][:3]
    if found:
        return f"Did you mean {' or '.join(map(repr, found))}?"
    if choices:
        return f"Known: {', '.join(choices)}."
    return ""


def _folded(name: str) -> str:
    """A name without what people mix up: capitals, dashes and underscores."""
    return name.lower().replace("-", "_")
