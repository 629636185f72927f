"""Repetition, by hand."""

from __future__ import annotations

import pytest

from posttrain.core.errors import BadRequest
from posttrain.measure.repetition import Repetition


def test_by_hand():
    """Pairs: `a b a b a` has ab, ba, ab, ba, of four two repeat; `c d e` none; one word has no pairs."""
    found = Repetition(n=2).score(["a b a b a", "C d e", "f", ""])
    assert found.value == pytest.approx((0.5 + 0) / 2)
    assert found.parts["long_enough"] == 2
    assert Repetition(n=1).score(["no No no yes"]).parts["longest_run"] == 3
    assert not found.higher_is_better


def test_short_texts_are_refused():
    with pytest.raises(BadRequest, match="No text has 4 words"):
        Repetition().score(["a b c", ""])
