"""Domains by hand on given scores."""

from __future__ import annotations

import math

import numpy as np
import pytest

from posttrain.core.errors import BadRequest
from posttrain.curate.domain import domains, fits
from posttrain.curate.text_scores import TextScore


def bits(total: float, size: int) -> TextScore:
    """A text of so many bits, in tokens that say nothing here."""
    return TextScore(total * math.log(2), 3, size, 0)


def test_each_text_by_hand() -> None:
    """8 bits for four bytes are 2 a byte, 12 bits 3; Bayes: 2^-8 / (2^-8 + 2^-12) = 16/17."""
    scores = {"law": [bits(8, 4), bits(40, 4)], "code": [bits(12, 4), bits(39, 4)]}
    first, second = domains(scores)
    assert first.bits_per_byte == pytest.approx({"law": 2, "code": 3})
    assert (first.best, second.best) == ("law", "code")
    assert first.margin == pytest.approx(1)
    assert first.probability == pytest.approx(16 / 17)
    assert second.margin == pytest.approx(0.25)
    wanted = domains(scores, min_margin=0.5)
    assert [each.best for each in wanted] == ["law", None]


def test_of_three_the_second_best_sets_the_margin() -> None:
    (found,) = domains({"a": [bits(10, 2)], "b": [bits(6, 2)], "c": [bits(7, 2)]})
    assert (found.best, found.margin) == ("b", pytest.approx(0.5))
    assert found.probability == pytest.approx(1 / (1 + 2**-1 + 2**-4))


def test_equal_models_decide_nothing() -> None:
    (found,) = domains({"a": [bits(10, 2)], "b": [bits(10, 2)]})
    assert found.best is None and found.probability == pytest.approx(0.5)


def test_the_set_as_a_whole() -> None:
    """Model a needs 1 bit a byte and b 1.2, on every text with noise they share: surely different."""
    draw = np.random.default_rng(0)
    sizes, noise = draw.integers(20, 200, 40), draw.normal(0, 0.3, 40)
    scores = {
        name: [bits(float(size * (rate + shift)), int(size)) for size, shift in zip(sizes, noise)]
        for name, rate in (("b", 1.2), ("a", 1.0))
    }
    found = fits(scores, domains(scores))
    assert list(found) == ["a", "b"]
    expected = 1.0 + float((sizes * noise).sum() / sizes.sum())
    assert found["a"].bits_per_byte == pytest.approx(expected)
    assert found["b"].bits_per_byte == pytest.approx(expected + 0.2)
    assert (found["a"].texts, found["b"].texts) == (40, 0)
    assert found["a"].p_value is None
    assert found["b"].p_value == pytest.approx(1 / 1001)
    assert found["a"].interval is not None and found["a"].interval[0] < expected < found["a"].interval[1]


def test_few_texts_have_no_test() -> None:
    scores = {"a": [bits(4, 2)] * 5, "b": [bits(5, 2)] * 5}
    found = fits(scores, domains(scores))
    assert found["b"].p_value is None and found["a"].interval is None


def test_what_can_not_be_compared_is_refused() -> None:
    with pytest.raises(BadRequest, match="at least two models"):
        domains({"a": [bits(4, 2)]})
    with pytest.raises(BadRequest, match="Text 2 has no size in bytes"):
        domains({"a": [bits(4, 2), bits(4, 0)], "b": [bits(4, 2), bits(4, 0)]})
