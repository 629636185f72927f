"""The tree of sequences: what it holds, in which order, and where it shares."""

from __future__ import annotations

import random

import pytest

from posttrain.bench.prefix_tree import prefix_tree


def sequence_at(tree, end):
    """The tokens on the way from the root to a node."""
    return [token for place in tree.path(end) for token in tree.nodes[place].tokens]


def test_a_shared_context_stands_once():
    """Ten tokens shared by three sequences save 20; the two that also share `7` save one, which isn't worth a node."""
    context = list(range(100, 110))
    sequences = [[*context, 8, 1], [*context, 7, 1], [*context, 7, 2, 3]]
    tree = prefix_tree(sequences)
    assert [(list(n.tokens), n.start, n.parent) for n in tree.nodes] == [
        (context, 0, None),
        ([7, 1], 10, 0),
        ([7, 2, 3], 10, 0),
        ([8, 1], 10, 0),
    ]
    assert tree.ends == [3, 1, 2]
    assert tree.tokens == 17


def test_sequences_that_end_where_others_go_on():
    """The first ends with the shared run and has no node of its own; of the short pair each keeps its own."""
    run = list(range(20))
    tree = prefix_tree([run, [*run, 1], [50], [50, 51]])
    assert [list(node.tokens) for node in tree.nodes] == [run, [1], [50], [50, 51]]
    assert tree.ends == [0, 1, 2, 3]


def test_levels():
    """Solved examples above contexts above endings: 3 levels, each run once."""
    examples, first, second = list(range(30)), list(range(40, 50)), list(range(60, 70))
    sequences = [[*examples, *context, ending] for context in (first, second) for ending in (1, 2)]
    tree = prefix_tree(sequences)
    assert tree.tokens == 30 + 10 + 10 + 4
    assert [node.parent for node in tree.nodes] == [None, 0, 1, 1, 0, 4, 4]


def test_without_sharing_each_sequence_is_a_root():
    tree = prefix_tree([[1, 2, 3], [1, 2, 4]], share=False)
    assert [(list(n.tokens), n.start, n.parent) for n in tree.nodes] == [([1, 2, 3], 0, None), ([1, 2, 4], 0, None)]
    assert tree.ends == [0, 1]
    assert prefix_tree([]).nodes == prefix_tree([], share=False).nodes == []


@pytest.mark.parametrize("seed", range(30))
def test_any_sequences(seed):
    """Every sequence can be read off the tree, parents come first, and descendants follow their ancestor directly."""
    draw = random.Random(seed)
    alphabet = range(draw.choice([1, 2, 3, 50]))
    stems = [[draw.choice(alphabet) for _ in range(draw.randrange(30))] for _ in range(4)]
    wanted = {
        (*draw.choice(stems), *(draw.choice(alphabet) for _ in range(draw.randrange(1, 12))))
        for _ in range(draw.randrange(1, 60))
    }
    sequences = [list(ids) for ids in sorted(wanted, key=lambda _: draw.random())]
    tree = prefix_tree(sequences)
    assert [sequence_at(tree, end) for end in tree.ends] == sequences
    assert all(node.tokens for node in tree.nodes)
    for place, node in enumerate(tree.nodes):
        assert node.parent is None or node.parent < place
        assert node.start == len(sequence_at(tree, node.parent))
        # Preorder: the parent is the node before, or stands above it.
        assert node.parent is None or node.parent in tree.path(place - 1)
    assert tree.tokens <= sum(map(len, sequences))
