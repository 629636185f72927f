"""Passages that short texts share with long ones: which runs of words of the former stand in the latter.

The short texts' n-grams of words are held as 64-bit hashes; a long text is numbered by the short ones' vocabulary, all
of its n-grams are hashed at once and looked up, and what is found is compared word by word, so that no collision
counts. n-grams that follow each other in both texts are one passage. Work grows with the long texts only.

Words are runs of letters and digits, in small letters: capitals, punctuation and blanks don't matter. Left out:
languages that don't put blanks between words, and passages with a word changed (each part counts by itself).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_WORD = re.compile(r"\w+")
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, so that multiplying by its powers loses nothing

Numbers = NDArray[np.int64]


def words_of(text: str) -> list[str]:
    """The words of a text, in small letters."""
    return _WORD.findall(text.lower())


def passage_in(text: str, start: int, count: int) -> tuple[int, str]:
    """The words [start, start + count) of a text as they stand there.

    Args:
        text: The text whose `words_of` were searched.
        start: The first word.
        count: How many.

    Returns:
        The place of the first character, and the passage.
    """
    lowered = text.lower()
    places = [match.span() for match in _WORD.finditer(lowered)]
    begin, end = places[start][0], places[start + count - 1][1]
    # A few letters become two when they are made small; then the text itself has other places.
    return begin, (text if len(text) == len(lowered) else lowered)[begin:end]


@dataclass(frozen=True)
class Passage:
    """A run of words that a short and a long text share.

    Attributes:
        short: Which short text.
        start: The first word in it.
        place: The first word in the searched words.
        words: How many words.
    """

    short: int
    start: int
    place: int
    words: int


class PassageIndex:
    """The n-grams of short texts."""

    def __init__(self, texts: Sequence[Sequence[str]], n: int, most_texts: int) -> None:
        """Number words and hash n-grams.

        Args:
            texts: The words of each short text.
            n: Length of the n-grams, the shortest passage that is found.
            most_texts: n-grams that stand in more short texts than this are set phrases and aren't looked for.

        Raises:
            ValueError: If n or most_texts is below 1.
        """
        if n < 1 or most_texts < 1:
            raise ValueError(f"n and most_texts must be at least 1, not {n} and {most_texts}")
        self.n = n
        self._numbers: dict[str, int] = {}
        for text in texts:
            for word in text:
                self._numbers.setdefault(word, len(self._numbers) + 1)
        # The short texts end to end, 0 between them; 0 stands for every other word in long texts too.
        lengths = np.array([len(text) for text in texts], dtype=np.int64)
        self._begins: Numbers = np.cumsum(np.append(0, lengths + 1))[:-1]
        self._ids: Numbers = np.zeros(int((lengths + 1).sum()), dtype=np.int64)
        for begin, text in zip(self._begins, texts):
            self._ids[begin : begin + len(text)] = [self._numbers[word] for word in text]
        generator = np.random.default_rng(0)
        self._values = generator.integers(0, 2**63, len(self._numbers) + 1, dtype=np.uint64)
        places = self._whole(self._ids)
        hashes = self._hashes(self._ids, places)
        order = np.argsort(hashes, kind="stable")
        self._hashed, firsts, counts = np.unique(hashes[order], return_index=True, return_counts=True)
        self._occurrences, self._firsts, self._counts = places[order], firsts, counts
        owners = np.searchsorted(self._begins, self._occurrences, side="right") - 1
        new_owner = np.append(True, (owners[1:] != owners[:-1]) | np.isin(np.arange(1, len(owners)), firsts))
        apart = new_owner[: len(owners)].astype(np.int64)
        spread = np.add.reduceat(apart, firsts) if len(owners) else apart
        self._kept = spread <= most_texts
        self.set_phrases = int((~self._kept).sum())
        """How many n-grams aren't looked for."""
        # By place, whether an n-gram that is looked for begins there, and whether it has been seen.
        self._sought = np.zeros(len(self._ids), dtype=bool)
        self._sought[self._occurrences[np.repeat(self._kept, counts)]] = True
        self._seen = np.zeros(len(self._ids), dtype=bool)

    def numbered(self, words: Sequence[str]) -> list[int]:
        """The words' numbers; 0 for one that no short text has."""
        get = self._numbers.get
        return [get(word, 0) for word in words]

    def search(self, numbers: Numbers) -> list[Passage]:
        """The passages in the words of long texts, and note their n-grams as seen.

        Args:
            numbers: [words], from `numbered`; a 0 between texts keeps passages from reaching across.

        Returns:
            Of each short text and each alignment with the words every longest run.
        """
        places = self._whole(numbers)
        if not len(places) or not len(self._hashed):
            return []
        hashes = self._hashes(numbers, places)
        slots = np.minimum(np.searchsorted(self._hashed, hashes), len(self._hashed) - 1)
        found = (self._hashed[slots] == hashes) & self._kept[slots]
        places, slots = places[found], slots[found]
        counts = self._counts[slots]
        # Each occurrence of each n-gram found: [matches].
        at = np.repeat(places, counts)
        within = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
        own = self._occurrences[np.repeat(self._firsts[slots], counts) + within]
        reach = np.arange(self.n)
        same = (numbers[at[:, None] + reach] == self._ids[own[:, None] + reach]).all(axis=1)
        at, own = at[same], own[same]
        self._seen[own] = True
        return list(self._runs(at, own))

    def _runs(self, at: Numbers, own: Numbers) -> Iterator[Passage]:
        """n-grams that follow each other in both texts, as one passage."""
        order = np.lexsort((at, at - own))
        at, own = at[order], own[order]
        # Places in the short texts are never equal across texts, so one alignment belongs to one short text; a 0 parts
        # neighbours, because no n-gram holds one.
        follows = (at[1:] == at[:-1] + 1) & (own[1:] == own[:-1] + 1)
        begins = np.flatnonzero(np.append(True, ~follows)) if len(at) else np.zeros(0, dtype=np.int64)
        sizes = np.diff(np.append(begins, len(at)))
        texts = np.searchsorted(self._begins, own[begins], side="right") - 1
        starts = own[begins] - self._begins[texts]
        for text, start, place, size in zip(texts, starts, at[begins], sizes):
            yield Passage(int(text), int(start), int(place), int(size) + self.n - 1)

    def seen(self, short: int) -> tuple[int, int]:
        """How many of a short text's n-grams have been seen in what was searched so far, and of how many.

        Args:
            short: Which short text; set phrases don't count.
        """
        begin = self._begins[short]
        end = self._begins[short + 1] if short + 1 < len(self._begins) else len(self._ids)
        return int(self._seen[begin:end].sum()), int(self._sought[begin:end].sum())

    def _whole(self, numbers: Numbers) -> Numbers:
        """The places at which an n-gram without a 0 begins."""
        if len(numbers) < self.n:
            return np.zeros(0, dtype=np.int64)
        zeros = np.cumsum(np.append(0, numbers == 0))
        return np.flatnonzero(zeros[self.n :] == zeros[: -self.n])

    def _hashes(self, numbers: Numbers, places: Numbers) -> NDArray[np.uint64]:
        """Of the n-grams at these places: the sum of each word's random value times a power."""
        values = self._values[numbers]
        found = np.zeros(len(places), dtype=np.uint64)
        for offset in range(self.n):
            found = found * _MULTIPLIER + values[places + offset]
        return found
