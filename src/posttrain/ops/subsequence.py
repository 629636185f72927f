"""The longest common subsequence of two sequences, a whole row of the table at a time.

A row of the dynamic programme is one integer with a bit for each token of the second sequence: 0 where the length grows
by one there (Hyyrö, 2004, "Bit-parallel LCS-length computation revisited"). The difference of two successive rows has a
1 exactly where the length grows from one row to the next, so the subsequence itself is read back from one integer a
row, without the table.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence


def places(tokens: Sequence[Hashable]) -> dict[Hashable, int]:
    """For each token, a bit for each place where it stands."""
    found: dict[Hashable, int] = {}
    bit = 1
    for token in tokens:
        found[token] = found.get(token, 0) | bit
        bit <<= 1
    return found


def common_length(first: Sequence[Hashable], second: Mapping[Hashable, int], length: int) -> int:
    """The length of the longest common subsequence.

    Args:
        first: A sequence.
        second: The `places` of the other one.
        length: The other one's length.
    """
    everywhere = (1 << length) - 1
    row = everywhere
    for token in first:
        matches = second.get(token)
        if matches is not None:
            taken = row & matches
            row = ((row + taken) | (row - taken)) & everywhere
    return length - row.bit_count()


def common_indices(first: Sequence[Hashable], second: Mapping[Hashable, int], length: int) -> list[int]:
    """Where in the first sequence the tokens of one longest common subsequence stand, from the last to the first.

    Of several the one that is read from the ends of both: equal tokens are taken; otherwise the second sequence is
    shortened if the subsequence without that token is longer than without the first one's, and else the first.

    Args:
        first: A sequence.
        second: The `places` of the other one.
        length: The other one's length.
    """
    everywhere = (1 << length) - 1
    row = everywhere
    steps: list[tuple[int, int, int]] = []  # index in the first sequence, its matches, where the length grows there
    for index, token in enumerate(first):
        matches = second.get(token)
        if matches is not None:
            taken = row & matches
            later = ((row + taken) | (row - taken)) & everywhere
            steps.append((index, matches, (later - row) & everywhere))
            row = later
    found: list[int] = []
    left = length  # tokens of the second sequence that are still to be read
    for index, matches, grows in reversed(steps):
        # The last place among them where the tokens are equal or the length doesn't grow.
        stops = (matches | ~grows) & ((1 << left) - 1)
        if not stops:
            break
        left = stops.bit_length()
        if matches >> (left - 1) & 1:
            found.append(index)
            left -= 1
    return found
