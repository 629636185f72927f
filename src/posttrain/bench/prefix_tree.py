"""Sequences of tokens as a tree, so that what several of them begin with stands in it only once.

The four endings of a question share its context, the questions of a subject share their solved examples. A node holds a
run of tokens; a sequence is the way from a root to the node it ends in. Nodes are in preorder: a node's descendants
follow it directly. Left out: runs that are shared inside sequences instead of at their beginning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# A run gets a node of its own only where that saves so many tokens; a node costs some time by itself.
_WORTH = 8


@dataclass(frozen=True)
class Node:
    """A run of tokens that everything below it begins with.

    Attributes:
        tokens: The run, at least one token.
        start: How many tokens precede it on the way from the root.
        parent: Its parent's place among the nodes; None for a root.
    """

    tokens: Sequence[int]
    start: int
    parent: int | None


@dataclass(frozen=True)
class PrefixTree:
    """Distinct sequences with common beginnings.

    Attributes:
        nodes: All nodes in preorder.
        ends: For each sequence the node it ends in, always at that node's end.
    """

    nodes: list[Node]
    ends: list[int]

    @property
    def tokens(self) -> int:
        """Tokens in all nodes together."""
        return sum(len(node.tokens) for node in self.nodes)

    def path(self, node: int | None) -> list[int]:
        """The places of the nodes from the root to this one; empty for None."""
        found = []
        while node is not None:
            found.append(node)
            node = self.nodes[node].parent
        return found[::-1]


def prefix_tree(sequences: Sequence[Sequence[int]], share: bool = True) -> PrefixTree:
    """Make the tree of some sequences.

    Args:
        sequences: Token ids, all different and none empty.
        share: Whether common beginnings get nodes; otherwise each sequence is a root.
    """
    if not share or not sequences:
        return PrefixTree([Node(ids, 0, None) for ids in sequences], list(range(len(sequences))))
    order = sorted(range(len(sequences)), key=lambda i: tuple(sequences[i]))
    nodes: list[Node] = []
    ends = [0] * len(sequences)
    # Ranges of `order` whose sequences agree on `depth` tokens, of which the nodes up to `parent` hold `start`.
    work: list[tuple[int, int, int | None, int, int]] = [(0, len(order), None, 0, 0)]
    while work:
        low, high, parent, start, depth = work.pop()
        first = sequences[order[low]]
        if high - low == 1:
            nodes.append(Node(first[start:], start, parent))
            ends[order[low]] = len(nodes) - 1
            continue
        # Between the first and the last of sorted sequences all others have at least their common beginning.
        depth = _agreement(first, sequences[order[high - 1]], depth)
        if (high - low - 1) * (depth - start) >= _WORTH:
            nodes.append(Node(first[start:depth], start, parent))
            parent, start = len(nodes) - 1, depth
        if len(first) == depth:  # it ends where the others go on
            if start < depth:
                nodes.append(Node(first[start:], start, parent))
                ends[order[low]] = len(nodes) - 1
            else:
                assert parent is not None
                ends[order[low]] = parent
            low += 1
        work += reversed(
            [(begin, end, parent, start, depth) for begin, end in _runs(sequences, order, low, high, depth)]
        )
    return PrefixTree(nodes, ends)


def _agreement(a: Sequence[int], b: Sequence[int], known: int) -> int:
    """How many tokens two sequences have in common at their beginning, of which `known` are known."""
    most = min(len(a), len(b))
    while known < most and a[known] == b[known]:
        known += 1
    return known


def _runs(
    sequences: Sequence[Sequence[int]], order: list[int], low: int, high: int, depth: int
) -> list[tuple[int, int]]:
    """Parts of a range of `order` whose sequences have the same token at `depth`."""
    cuts = [i for i in range(low + 1, high) if sequences[order[i]][depth] != sequences[order[i - 1]][depth]]
    return list(zip([low, *cuts], [*cuts, high]))
