"""Longest common subsequences against the table of the dynamic programme, and read back from it in the same order."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from posttrain.ops.subsequence import common_indices, common_length, places


def by_table(first: Sequence[str], second: Sequence[str]) -> tuple[int, list[int]]:
    """The length and the indices, from a table of lengths for all prefixes."""
    table = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, a in enumerate(first, 1):
        for j, b in enumerate(second, 1):
            table[i][j] = table[i - 1][j - 1] + 1 if a == b else max(table[i - 1][j], table[i][j - 1])
    i, j, found = len(first), len(second), []
    while i and j:
        if first[i - 1] == second[j - 1]:
            found.append(i - 1)
            i, j = i - 1, j - 1
        elif table[i][j - 1] > table[i - 1][j]:
            j -= 1
        else:
            i -= 1
    return table[-1][-1], found


def test_by_hand() -> None:
    """Of abcbdab and bdcaba the longest is 4; read from both ends it is b(1) c(2) b(3) a(5): the last b of the first
    sequence equals nothing that is left once the a before it is reached."""
    first, second = "abcbdab", "bdcaba"
    assert common_length(first, places(second), 6) == 4
    assert common_indices(first, places(second), 6) == by_table(first, second)[1] == [5, 3, 2, 1]


@pytest.mark.parametrize(("first", "second"), [("", "abc"), ("abc", ""), ("abc", "xyz"), ("aaa", "a"), ("abc", "abc")])
def test_edges(first: str, second: str) -> None:
    length, indices = by_table(first, second)
    assert common_length(first, places(second), len(second)) == length
    assert common_indices(first, places(second), len(second)) == indices


@pytest.mark.parametrize("letters", ["ab", "abcdef", "abcdefghijklmnopqrstuvwxyz"])
def test_equals_the_table(letters: str) -> None:
    generator = random.Random(len(letters))
    for _ in range(150):
        first, second = (generator.choices(letters, k=generator.randrange(90)) for _ in range(2))
        length, indices = by_table(first, second)
        found = places(second)
        assert common_length(first, found, len(second)) == length == len(indices)
        assert common_indices(first, found, len(second)) == indices
