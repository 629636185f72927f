"""Words and phrases looked up in a text, in one pass whatever their number.

A term matches whole words, so nothing is found inside a longer, innocent one. Its words may stand together or be
parted by a few signs or blanks; a word that ends in ``*`` may go on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

_WORD = re.compile(r"[^\W_]+")
_FURTHEST = 4  # characters between two words of a term

Word = tuple[str, int, int]
"""A word of a text, with where it starts and where it ends."""


def words_of(text: str) -> list[Word]:
    """The words of a text, as `Terms.find` takes them."""
    return [(m.group(), m.start(), m.end()) for m in _WORD.finditer(text)]


@dataclass(frozen=True)
class _Term:
    """A term as it is written, its words as they are looked up, and which of these may go on."""

    written: str
    words: tuple[str, ...]
    goes_on: tuple[bool, ...]

    def end(self, words: Sequence[Word], first: int) -> int | None:
        """Where it ends if it stands at the word with index `first`, else None."""
        if first + len(self.words) > len(words):
            return None
        for place, (wanted, goes_on) in enumerate(zip(self.words, self.goes_on), first):
            word, start, _ = words[place]
            if word != wanted and not (goes_on and word.startswith(wanted)):
                return None
            if place > first and start - words[place - 1][2] > _FURTHEST:
                return None
        return words[first + len(self.words) - 1][2]


class Terms:
    """A list of terms.

    Args:
        terms: As they are written.
        read: How a text is read that is searched for them; so are they themselves.
    """

    def __init__(self, terms: Sequence[str], read: Callable[[str], str]) -> None:
        self._whole: dict[str, tuple[_Term, ...]] = {}
        self._beginnings: dict[str, tuple[_Term, ...]] = {}
        for written in terms:
            words: list[str] = []
            goes_on: list[bool] = []
            for part in written.split():
                found = _WORD.findall(read(part.rstrip("*")))
                words += found
                goes_on += [False] * (len(found) - 1) + [part.endswith("*")] * bool(found)
            if words:
                self._add(_Term(written, tuple(words), tuple(goes_on)))
            if len(words) > 1:
                self._add(_Term(written, ("".join(words),), (goes_on[-1],)))
        self._lengths = sorted({len(word) for word in self._beginnings})

    def _add(self, term: _Term) -> None:
        index = self._beginnings if term.goes_on[0] else self._whole
        index[term.words[0]] = (*index.get(term.words[0], ()), term)

    def find(self, words: Sequence[Word]) -> Iterator[tuple[int, int, str]]:
        """Every place where a term stands: start, end, and the term as it is written."""
        for first, (word, start, _) in enumerate(words):
            candidates = self._whole.get(word, ())
            for length in self._lengths:
                if length <= len(word):
                    candidates = (*candidates, *self._beginnings.get(word[:length], ()))
            for term in candidates:
                if (end := term.end(words, first)) is not None:
                    yield start, end, term.written
