"""Passages that short texts share with long ones, beside a search that compares every pair of places."""

from __future__ import annotations

import random

import numpy as np
import pytest

from posttrain.ops.shared_passages import PassageIndex, passage_in, words_of


def searched(index, *texts):
    """The passages in texts, one after the other."""
    numbers = []
    for text in texts:
        numbers += [*index.numbered(text.split()), 0]
    return {(p.short, p.start, p.place, p.words) for p in index.search(np.array(numbers, dtype=np.int64))}


def naive(shorts, long, n):
    """Every longest run of at least n equal words, by comparing all pairs of places."""
    found = set()
    for number, short in enumerate(shorts):
        for i in range(len(short)):
            for j in range(len(long)):
                if i and j and short[i - 1] == long[j - 1]:
                    continue
                k = 0
                while i + k < len(short) and j + k < len(long) and short[i + k] == long[j + k]:
                    k += 1
                if k >= n:
                    found.add((number, i, j, k))
    return found


def test_words():
    assert words_of('Don\'t, "STOP" at 3.5—now_1!') == ["don", "t", "stop", "at", "3", "5", "now_1"]
    assert words_of(" \n") == []


def test_by_hand():
    """ "b c d" begins at word 1 of the short text and at word 3 of the long one."""
    index = PassageIndex([["a", "b", "c", "d"], ["x", "y", "z"]], n=3, most_texts=10)
    assert searched(index, "q q a b c d q") == {(0, 0, 2, 4)}
    assert index.seen(0) == (2, 2)
    assert index.seen(1) == (0, 1)
    assert searched(index, "q q q b c d x y z") == {(0, 1, 3, 3), (1, 0, 6, 3)}
    assert index.seen(1) == (1, 1)


def test_nothing_reaches_across_texts():
    index = PassageIndex([["a", "b", "c"], ["d", "e", "f"]], n=3, most_texts=10)
    assert searched(index, "a b", "c d e f") == {(1, 0, 4, 3)}
    # Not in the short texts either: "b c d" stands in none of them.
    assert searched(index, "b c d e") == set()


@pytest.mark.parametrize("seed", range(20))
def test_as_by_comparing_everything(seed):
    """Few different words, so that n-grams occur often, repeat and overlap."""
    generator = random.Random(seed)
    shorts = [generator.choices("abc", k=generator.randrange(1, 12)) for _ in range(6)]
    long = generator.choices("abcd", k=60)
    shorts = [list(each) for each in dict.fromkeys(map(tuple, shorts))]
    index = PassageIndex(shorts, n=3, most_texts=100)
    assert searched(index, " ".join(long)) == naive(shorts, long, 3)
    grams = {tuple(long[i : i + 3]) for i in range(len(long) - 2)}
    for number, short in enumerate(shorts):
        own = [tuple(short[i : i + 3]) for i in range(len(short) - 2)]
        assert index.seen(number) == (sum(gram in grams for gram in own), len(own))


def test_set_phrases_are_not_looked_for():
    texts = ["which of these is true one two three", "which of these is true four five six", "one two three four"]
    index = PassageIndex([text.split() for text in texts], n=4, most_texts=1)
    assert index.set_phrases == 2  # "which of these is" and "of these is true"
    assert searched(index, "which of these is true") == set()
    assert index.seen(0) == (0, 3)  # of five 4-grams two don't count
    assert searched(index, "true one two three four") == {(0, 4, 0, 4), (2, 0, 1, 4)}
    # Twice in one text is no set phrase.
    assert PassageIndex([["a", "b", "a", "b", "a", "b"]], n=2, most_texts=1).set_phrases == 0


def test_texts_without_ngrams():
    index = PassageIndex([["a"], []], n=2, most_texts=5)
    assert searched(index, "a a a") == set()
    assert index.seen(0) == index.seen(1) == (0, 0)
    assert PassageIndex([], n=2, most_texts=5).search(np.zeros(0, dtype=np.int64)) == []
    with pytest.raises(ValueError, match="at least 1"):
        PassageIndex([], n=0, most_texts=1)


def test_a_passage_as_it_stands():
    text = 'He said: "Don\'t STOP", and left.'
    assert passage_in(text, 1, 4) == (3, "said: \"Don't STOP")
    # The first letter becomes two when it is made small, so that places are those of the small letters.
    assert passage_in("İ am here", 1, 1)[1] == "am"
