"""Counting n-grams in sequences of token ids or words, for overlap metrics, diversity and repetition.

Sources: distinct-n, Li et al. (2016, "A Diversity-Promoting Objective Function for Neural Conversation Models");
repetition rate as seq-rep-n, Welleck et al. (2020, "Neural Text Generation with Unlikelihood Training"); clipped
overlap as in BLEU, Papineni et al. (2002). Left out: tokenization, and n-grams with gaps (ROUGE-S).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Token = TypeVar("Token", bound=Hashable)


def ngrams(tokens: Sequence[Token], n: int) -> Iterator[tuple[Token, ...]]:
    """The n-grams of a sequence in order: max(0, length - n + 1) tuples.

    Raises:
        ValueError: n below one.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, not {n}")
    return zip(*(islice(tokens, start, None) for start in range(n)), strict=False)


def count(tokens: Sequence[Token], n: int) -> Counter[tuple[Token, ...]]:
    """How often each n-gram occurs in a sequence.

    Raises:
        ValueError: n below one.
    """
    return Counter(ngrams(tokens, n))


def overlap(a: Sequence[Token], b: Sequence[Token], n: int) -> int:
    """The number of n-grams that two sequences share, each counted as often as it occurs in both (clipped).

    Raises:
        ValueError: n below one.
    """
    return (count(a, n) & count(b, n)).total()


def distinct_counts(texts: Iterable[Sequence[Hashable]], n: int) -> tuple[int, int]:
    """The numbers of different n-grams and of all n-grams in a corpus; no n-gram reaches across two texts.

    Exact, for corpora of millions of tokens: n-grams are numbered by sorting integers, not by hashing tuples.

    Args:
        texts: Sequences of token ids or words.
        n: The length of the n-grams.

    Returns:
        (different, all).

    Raises:
        ValueError: n below one.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, not {n}")
    sequences = [text for text in texts if len(text) >= n]
    lengths = np.array([len(text) for text in sequences], dtype=np.int64)
    if not len(lengths):
        return 0, 0
    ids = _ranks(sequences)
    codes = _codes(ids, n)
    # Of the windows over the concatenation drop the n - 1 at each seam, which begin in one text and end in the next.
    inside = np.ones(len(codes), dtype=bool)
    ends = np.cumsum(lengths)[:-1]
    inside[(ends[:, None] - np.arange(1, n)).ravel()] = False
    codes = codes[inside]
    return len(np.unique(codes)), len(codes)


def distinct(texts: Iterable[Sequence[Hashable]], n: int) -> float:
    """Distinct-n: different n-grams as a share of all n-grams in a corpus; 0 for a corpus without n-grams.

    Falls with the amount of text, so compare only corpora of like size.

    Raises:
        ValueError: n below one.
    """
    different, total = distinct_counts(texts, n)
    return different / total if total else 0.0


def repetition_rate(tokens: Sequence[Hashable], n: int) -> float:
    """The share of a sequence's n-grams that repeat an earlier one: 1 - different / all; 0 without n-grams.

    Raises:
        ValueError: n below one.
    """
    counts = count(tokens, n)
    total = counts.total()
    return 1 - len(counts) / total if total else 0.0


def longest_run(tokens: Sequence[Hashable], n: int = 1) -> int:
    """The most copies of one n-gram that follow each other without a gap; text caught in a loop has many.

    Args:
        tokens: Token ids or words.
        n: The length of the repeated unit.

    Returns:
        1 when nothing repeats at once, 0 for a sequence shorter than n.

    Raises:
        ValueError: n below one.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, not {n}")
    if len(tokens) < n:
        return 0
    longest = current = 0
    for token, later in zip(tokens, islice(tokens, n, None), strict=False):
        current = current + 1 if token == later else 0
        longest = max(longest, current)
    return longest // n + 1  # L tokens in a row that equal the token n before them close L // n more copies


def _ranks(sequences: list[Sequence[Hashable]]) -> NDArray[np.int64]:
    """The concatenated sequences as integers in [0, number of different tokens)."""
    ranks: dict[Hashable, int] = {}
    numbers = (ranks.setdefault(token, len(ranks)) for token in chain.from_iterable(sequences))
    return np.fromiter(numbers, dtype=np.int64, count=sum(map(len, sequences)))


def _codes(ids: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """One integer per window of n ids, equal exactly for equal windows: [tokens] -> [tokens - n + 1]."""
    vocabulary = int(ids.max()) + 1
    codes, bound = ids, vocabulary
    for length in range(2, n + 1):
        if bound * vocabulary > np.iinfo(np.int64).max:
            codes = np.unique(codes, return_inverse=True)[1].reshape(-1)
            bound = int(codes.max()) + 1
        codes = codes[:-1] * vocabulary + ids[length - 1 :]
        bound *= vocabulary
    return codes
