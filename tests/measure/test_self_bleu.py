"""Self-BLEU: equal to a loop over sacrebleu's sentence BLEU, text against all others."""

from __future__ import annotations

import random

import pytest
from sacrebleu.metrics.bleu import BLEU

from posttrain.core.errors import BadRequest
from posttrain.measure.self_bleu import SelfBleu, leave_one_out

WORDS = ["the", "a", "fox", "dog", "cat", "jumps", "over", ",", ".", "night"]


def texts(count: int, seed: int = 0) -> list[str]:
    generator = random.Random(seed)
    return [" ".join(generator.choices(WORDS, k=generator.randrange(12))) for _ in range(count)]


def test_statistics_by_hand():
    """`a a b` finds one a and one b in `a b`, and no pair but a b; lengths of the others are 2 and 5, of 3 the 2 is
    nearer."""
    found = leave_one_out([["a", "a", "b"], ["a", "b"], ["c"] * 5], 2)
    assert found[0] == [3, 2, 2, 1, 3, 2]
    assert found[1] == [2, 3, 2, 1, 2, 1]
    assert found[2] == [5, 3, 0, 0, 5, 4]


def test_the_nearest_length_of_equally_near_ones_is_the_shorter():
    lengths = [row[1] for row in leave_one_out([["a"] * n for n in (2, 4, 6, 6)], 1)]
    assert lengths == [4, 2, 6, 6]


@pytest.mark.parametrize(("count", "order"), [(2, 4), (25, 4), (25, 2)])
def test_equals_the_loop(count, order):
    given = texts(count, seed=count)
    peer = BLEU(max_ngram_order=order, effective_order=True)
    expected = [
        peer.sentence_score(text, [other for j, other in enumerate(given) if j != i]).score
        for i, text in enumerate(given)
    ]
    found = SelfBleu(max_order=order).score(given)
    assert found.value == pytest.approx(sum(expected) / count)
    assert str(peer.get_signature()) in found.signature


def test_extremes_and_refusals():
    assert SelfBleu().score(["the same text again"] * 3).value == pytest.approx(100)
    assert SelfBleu().score(["one two three", "four five six"]).value == 0.0
    assert SelfBleu(lowercase=True).score(["One two", "one TWO"]).value == pytest.approx(100)
    with pytest.raises(BadRequest, match="one text only"):
        SelfBleu().score(["alone"])
    with pytest.raises(BadRequest, match="no words"):
        SelfBleu().score(["", " "])
    with pytest.raises(BadRequest, match="takes no references"):
        SelfBleu().score(["a", "b"], [["a"], ["b"]])
