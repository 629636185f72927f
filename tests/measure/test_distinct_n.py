"""Distinct-n: by hand, its interval against leaving out texts one by one."""

from __future__ import annotations

import random

import pytest

from posttrain.core.errors import BadRequest
from posttrain.measure.distinct_n import DistinctN
from posttrain.ops.ngrams import distinct


def test_by_hand():
    """Pairs of `a b a b` and `b a C`: ab, ba, ab and ba, ac; three of five differ."""
    found = DistinctN().score(["a b a b", "b a C"])
    assert found.value == pytest.approx(3 / 5)
    assert (found.parts["ngrams"], found.parts["different"]) == (5, 3)
    assert found.interval is None
    assert DistinctN(n=1).score(["a b a b", "b a C"]).value == pytest.approx(3 / 7)


def test_interval_is_the_jackknifes():
    generator = random.Random(0)
    texts = [" ".join(generator.choices("abcdefgh", k=generator.randrange(2, 7))) for _ in range(30)]
    found = DistinctN().score(texts)
    assert found.value == pytest.approx(distinct([text.split() for text in texts], 2))
    without = [DistinctN().score(texts[:i] + texts[i + 1 :]).value for i in range(30)]
    mean = sum(without) / 30
    error = (29 / 30 * sum((each - mean) ** 2 for each in without)) ** 0.5
    assert found.interval == pytest.approx((found.value - 1.959964 * error, found.value + 1.959964 * error))


def test_refusals():
    with pytest.raises(BadRequest, match="No text has 3 words"):
        DistinctN(n=3).score(["a b", ""])
    with pytest.raises(BadRequest, match="no paired test"):
        DistinctN().compare(["a b c"], ["a b d"])
