"""Whitespace: blanks between words become several, as in text copied from a page; words never grow together.

One of the perturbations of Liang et al., 2022, "Holistic Evaluation of Language Models", appendix D. Line breaks stay,
because they are the structure of a prompt.
"""

from __future__ import annotations

import re
from random import Random

from pydantic import Field

from posttrain.bench.perturbations import Perturbation
from posttrain.bench.perturbations._words import drawn

_BLANK = re.compile(r"(?<=\S) (?=\S)")


class Whitespace(Perturbation):
    """Widen blanks between words."""

    rate: float = Field(0.3, ge=0, le=1)
    """The probability that a blank is widened."""

    at_least: int = Field(1, ge=0)
    """Widen at least so many blanks of a text that has as many."""

    most: int = Field(3, ge=2)
    """A widened blank becomes 2 to so many."""

    tabs: bool = False
    """Make a tab of every second widened blank, on average."""

    def apply(self, text: str, random: Random) -> str:
        chosen = {match.start() for match in drawn(list(_BLANK.finditer(text)), self.rate, self.at_least, random)}

        def widened(match: re.Match[str]) -> str:
            if match.start() not in chosen:
                return match[0]
            if self.tabs and random.random() < 0.5:
                return "\t"
            return " " * random.randint(2, self.most)

        return _BLANK.sub(widened, text)
