"""Punctuation: the mark at a text's end taken off or put on, all marks between words left out, or the last repeated.

Taking off and putting on is CheckList's test of punctuation (Ribeiro et al., 2020). Marks inside words and numbers
(don't, 3.5, 10:30) stay, and so do those in front of a number (.5).
"""

from __future__ import annotations

import re
from random import Random
from typing import Literal

from posttrain.bench.perturbations import Perturbation

_END = re.compile(r"[.!?…]+(?=\s*$)")
_MARKS = re.compile(r'[.,;:!?…"“”]+')
_REPEATED = 3


class Punctuation(Perturbation):
    """Change sentence marks."""

    change: Literal["end", "drop", "repeat"] = "end"
    """``end`` takes off the mark at the text's end, or puts a full stop there if it has none; ``drop`` leaves out all
    marks between words; ``repeat`` writes the last mark three times."""

    @property
    def idempotent(self) -> bool:
        """Unless marks are taken off and put on."""
        return self.change != "end"

    def apply(self, text: str, random: Random) -> str:
        if not any(letter.isalnum() for letter in text):
            return text
        if self.change == "drop":
            return _MARKS.sub(_inside, text)
        if self.change == "repeat":
            return _END.sub(lambda match: match[0][-1] * _REPEATED, text, count=1)
        if _END.search(text):
            return _END.sub("", text, count=1)
        body = text.rstrip()
        return f"{body}.{text[len(body) :]}" if body[-1].isalnum() else text


def _inside(match: re.Match[str]) -> str:
    """Marks stay inside a word and before a number."""
    before, after = match.string[max(0, match.start() - 1) : match.start()], match.string[match.end() : match.end() + 1]
    return match[0] if after.isdigit() or (before.isalnum() and after.isalnum()) else ""
