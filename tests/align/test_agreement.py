"""Krippendorff's alpha: by hand, against his published example, and against a direct count of pairs."""

from __future__ import annotations

import random
from itertools import permutations

import pytest

from posttrain.align.agreement import krippendorff_alpha

# Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), section C: 4 observers, 12 units, missing values.
OBSERVERS = [
    "1 2 3 3 2 1 4 1 2 . . .",
    "1 2 3 3 2 2 4 1 2 5 . 3",
    ". 3 3 3 2 3 4 2 2 5 1 .",
    "1 2 3 3 2 4 4 1 2 5 1 .",
]


def units_of(rows):
    return [[value for value in unit if value != "."] for unit in zip(*(row.split() for row in rows))]


def direct_alpha(units):
    """Alpha from its definition: disagreeing pairs within units over disagreeing pairs of all comparable values."""
    units = [unit for unit in units if len(unit) > 1]
    values = [value for unit in units for value in unit]
    observed = sum(sum(a != b for a, b in permutations(unit, 2)) / (len(unit) - 1) for unit in units) / len(values)
    expected = sum(a != b for a, b in permutations(values, 2)) / (len(values) * (len(values) - 1))
    return 1 - observed / expected


def test_the_published_example():
    """The paper prints 0.743. The coincidences: n = 40, Σ o_cc = 32, n_c = 9, 13, 10, 5, 3.

    The value of unit 12 stands alone and doesn't count.
    alpha = 1 − 39 · (40 − 32) / (40² − 81 − 169 − 100 − 25 − 9) = 1 − 312 / 1216 = 0.7434.
    """
    units = units_of(OBSERVERS)
    assert units[11] == ["3"]
    assert krippendorff_alpha(units) == pytest.approx(1 - 312 / 1216)
    assert round(krippendorff_alpha(units), 3) == 0.743


def test_two_observers_by_hand():
    """Units aa, ab, bb: o_ab = o_ba = 1, n_a = n_b = 3, n = 6; alpha = 1 − 5 · 2 / (36 − 9 − 9) = 4/9."""
    assert krippendorff_alpha(["aa", "ab", "bb"]) == pytest.approx(4 / 9)


def test_a_unit_of_three_by_hand():
    """Units aab, bb: of the 6 ordered pairs of aab 4 differ, each counting 1/2, so Σ o_ck = 2; n_a = 2, n_b = 3.

    alpha = 1 − 4 · 2 / (25 − 4 − 9) = 1/3.
    """
    assert krippendorff_alpha(["aab", "bb"]) == pytest.approx(1 / 3)


def test_ends_of_the_scale():
    assert krippendorff_alpha(["aa", "bb", "cc"]) == 1
    # Everything is disputed: n = 4, Σ o_ck = 4, so 1 − 3 · 4 / (16 − 8).
    assert krippendorff_alpha(["ab", "ba"]) == pytest.approx(-0.5)


@pytest.mark.parametrize("units", [[], ["a", "b"], ["", "a"], ["aa", "aaa"]])
def test_undefined(units):
    assert krippendorff_alpha(units) is None


def test_against_a_direct_count():
    draw = random.Random(0)
    for _ in range(20):
        units = [draw.choices("abc", k=draw.randint(0, 4)) for _ in range(12)]
        assert krippendorff_alpha(units) == pytest.approx(direct_alpha(units), abs=1e-12)


def test_chance_gives_zero():
    draw = random.Random(1)
    assert krippendorff_alpha([draw.choices("ab", k=3) for _ in range(4000)]) == pytest.approx(0, abs=0.03)
