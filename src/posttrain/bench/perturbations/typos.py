"""Typos: slips of the fingers inside words; a neighbouring key, two letters exchanged, one left out or struck twice.

The four kinds and the rule that a word's first and last letter stay are those of Pruthi et al., 2019, "Combating
Adversarial Misspellings with Robust Word Recognition", section 3, with a doubled letter for an inserted one. Words of
fewer than four letters are left alone, and so is everything that holds a digit or an underscore. The keyboard is
QWERTY; letters that it doesn't have get one of the other kinds.
"""

from __future__ import annotations

import re
from functools import cache
from random import Random
from typing import Literal

from pydantic import Field

from posttrain.bench.perturbations import Perturbation
from posttrain.bench.perturbations._words import drawn

Kind = Literal["neighbour", "transposition", "drop", "double"]

_WORD = re.compile(r"(?<!\w)[^\W\d_]{4,}(?!\w)")
# The rows of the keyboard and how far each is shifted, in widths of a key.
_ROWS = (("qwertyuiop", 0.0), ("asdfghjkl", 0.25), ("zxcvbnm", 0.75))
# Keys whose middles lie less far apart than this are neighbours.
_REACH = 1.3


class Typos(Perturbation):
    """Misspell words."""

    rate: float = Field(0.1, ge=0, le=1)
    """The probability that a word gets a typo."""

    at_least: int = Field(1, ge=0)
    """Misspell at least so many words of a text that has as many."""

    kinds: tuple[Kind, ...] = Field(("neighbour", "transposition", "drop", "double"), min_length=1)
    """The slips to choose from."""

    spare_capitals: bool = False
    """Leave words alone that have a capital in them, so that no name becomes another."""

    def apply(self, text: str, random: Random) -> str:
        places = [match for match in _WORD.finditer(text) if not self.spare_capitals or match[0].islower()]
        chosen = {match.start() for match in drawn(places, self.rate, self.at_least, random)}

        def misspelt(match: re.Match[str]) -> str:
            return self._misspelt(match[0], random) if match.start() in chosen else match[0]

        return _WORD.sub(misspelt, text)

    def _misspelt(self, word: str, random: Random) -> str:
        found = [(kind, places) for kind in self.kinds if (places := _places(word, kind))]
        if not found:
            return word
        kind, places = random.choice(found)
        at = random.choice(places)
        letter = word[at]
        if kind == "neighbour":
            key = random.choice(_neighbours()[letter.lower()])
            return word[:at] + (key.upper() if letter.isupper() else key) + word[at + 1 :]
        if kind == "transposition":
            return word[:at] + word[at + 1] + letter + word[at + 2 :]
        return word[:at] + (letter * 2 if kind == "double" else "") + word[at + 1 :]


def _places(word: str, kind: Kind) -> list[int]:
    """Where inside a word such a slip changes something."""
    inside = range(1, len(word) - 1)
    if kind == "neighbour":
        return [i for i in inside if word[i].lower() in _neighbours()]
    if kind == "transposition":
        return [i for i in inside[:-1] if word[i] != word[i + 1]]
    return list(inside)


@cache
def _neighbours() -> dict[str, str]:
    """For each letter the keys around it."""
    at = {key: (column + shift, row) for row, (keys, shift) in enumerate(_ROWS) for column, key in enumerate(keys)}

    def near(one: str, other: str) -> bool:
        (x, y), (u, v) = at[one], at[other]
        return one != other and (x - u) ** 2 + (y - v) ** 2 < _REACH**2

    return {key: "".join(other for other in at if near(key, other)) for key in at}
