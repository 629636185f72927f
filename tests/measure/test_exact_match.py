"""Exact match, by hand."""

from __future__ import annotations

import pytest

from posttrain.measure.exact_match import ExactMatch


def test_by_hand():
    """Right but for article and case; one of two references; wrong; rightly silent."""
    predictions = ["The Senn.", "forty-two", "no", ""]
    references = [["senn"], ["42", "fortytwo"], ["yes"], [""]]
    found = ExactMatch().score(predictions, references)
    assert found.value == pytest.approx(75)
    assert ExactMatch(normalize=False).score(predictions, references).value == pytest.approx(25)
    assert ExactMatch(normalize=False).score([" x "], [["x"]]).value == 100
