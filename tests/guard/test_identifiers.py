"""The table of numbers that states give to people."""

from __future__ import annotations

import pytest

from posttrain.guard._identifiers import COUNTRIES, IDENTIFIERS


@pytest.mark.parametrize("identifier", IDENTIFIERS, ids=lambda each: f"{each.country}-{each.category}")
def test_the_check_is_there_and_refuses(identifier):
    assert identifier.title and identifier.category == identifier.category.lower()
    assert identifier.country in COUNTRIES
    if identifier.module:
        assert not identifier.accepts("0")
    assert identifier.pattern.search("x12345678901234567890") is None  # inside a longer word


def test_a_number_without_a_check_speaks_for_itself_or_is_named():
    for each in IDENTIFIERS:
        assert each.module or each.named or each.country in ("us", "gb")
