"""Tests of paired systems and intervals of shares, by hand and beside scipy."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from posttrain.ops.significance import (
    difference_interval,
    mcnemar,
    permutation_statistic_test,
    permutation_test,
    share_interval,
    sign_test,
)


def test_mcnemar_by_hand():
    """Of nine items two both right, five only the first, one only the second, one neither.

    A coin tossed six times falls 5:1 or more unequally with probability 2 (C(6,0) + C(6,1)) / 2^6 = 14 / 64.
    """
    first = [1, 1, 1, 1, 1, 1, 1, 0, 0]
    second = [1, 1, 0, 0, 0, 0, 0, 1, 0]
    found = mcnemar(first, second)
    assert (found.both, found.only_first, found.only_second, found.neither) == (2, 5, 1, 1)
    assert found.p_value == 14 / 64
    assert mcnemar(second, first).p_value == 14 / 64


@pytest.mark.parametrize(("one", "other"), [(0, 0), (1, 0), (0, 7), (3, 3), (10, 25), (140, 100), (2000, 2300)])
def test_the_sign_test_is_the_binomial_test(one, other):
    expected = stats.binomtest(one, one + other, 0.5).pvalue if one + other else 1.0
    assert sign_test(one, other) == pytest.approx(expected, rel=1e-9)


def test_systems_that_never_differ():
    assert mcnemar([1, 0, 1], [1, 0, 1]).p_value == 1
    assert permutation_test([1.0, 0.5], [1.0, 0.5]) == 1


def test_every_exchange_by_hand():
    """Differences 3, 1, 1 of three items: signed sums are ±5, ±3, ±3, ±1; two of eight reach 5, six reach 3."""
    assert permutation_test([3, 1, 1], [0, 0, 0]) == 2 / 8
    assert permutation_test([3, 1, 0], [0, 0, 1]) == 6 / 8
    # Items that don't differ have no say.
    assert permutation_test([3, 1, 1, 7, 7], [0, 0, 0, 7, 7]) == 2 / 8


def test_exchanges_agree_with_scipy():
    generator = np.random.default_rng(3)
    first, second = generator.normal(0.3, 1, 40), generator.normal(0, 1, 40)
    expected = stats.permutation_test(
        (first, second), lambda x, y, axis: np.mean(x - y, axis=axis), permutation_type="samples", vectorized=True
    ).pvalue
    assert permutation_test(first, second) == pytest.approx(expected, abs=0.02)
    few = stats.permutation_test((first[:9], second[:9]), lambda x, y: np.mean(x - y), permutation_type="samples")
    assert permutation_test(first[:9], second[:9]) == pytest.approx(few.pvalue)


def f1(sums):
    return 2 * sums[:, 0] / (2 * sums[:, 0] + sums[:, 1] + sums[:, 2])


def test_a_figure_of_sums_is_recomputed_for_each_exchange():
    """F1 of counts (right, wrongly found, missed) an item, against a loop over all 2^5 exchanges."""
    first = np.array([[3, 0, 1], [2, 1, 1], [4, 0, 0], [1, 1, 2], [2, 0, 1]], dtype=float)
    second = np.array([[2, 1, 2], [2, 2, 1], [3, 1, 1], [1, 0, 2], [1, 1, 2]], dtype=float)
    observed = abs(f1(first.sum(0)[None])[0] - f1(second.sum(0)[None])[0])
    reached = 0
    for exchange in itertools.product([False, True], repeat=5):
        chosen = np.array(exchange)[:, None]
        one, other = np.where(chosen, second, first), np.where(chosen, first, second)
        reached += abs(f1(one.sum(0)[None])[0] - f1(other.sum(0)[None])[0]) >= observed - 1e-12
    assert permutation_test(first, second, f1) == reached / 32
    assert permutation_statistic_test(first, second, lambda items: f1(items.sum(1))) == reached / 32


def test_drawn_exchanges_come_near_all_of_them():
    generator = np.random.default_rng(0)
    first, second = generator.integers(0, 2, 12), generator.integers(0, 2, 12) * 0.7 + 0.1
    exact = permutation_test(first, second, permutations=2**12)
    drawn = permutation_test(first, second, permutations=2**12 - 1)
    assert drawn != exact
    assert drawn == pytest.approx(exact, abs=0.03)
    assert permutation_test(first, second, permutations=100, seed=1) == permutation_test(
        first, second, permutations=100, seed=1
    )
    items = np.stack([first, second], axis=1)
    swapped = permutation_statistic_test(items[:, :1], items[:, 1:], lambda x: x.mean((1, 2)), permutations=4000)
    assert swapped == pytest.approx(exact, abs=0.03)


def test_a_true_difference_is_never_called_impossible():
    """With drawn exchanges the smallest p-value is 1 / (n + 1)."""
    assert permutation_test(np.ones(60), np.zeros(60), permutations=999) == 1 / 1000


def test_under_the_null_p_values_are_spread_evenly():
    generator = np.random.default_rng(5)
    found = [permutation_test(*generator.normal(size=(2, 25)), permutations=199, seed=i) for i in range(400)]
    assert stats.kstest(found, "uniform").pvalue > 0.001


@pytest.mark.parametrize(("count", "total"), [(0, 1), (1, 1), (0, 20), (3, 17), (50, 100), (999, 1000)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_shares_as_scipy(count, total, confidence):
    expected = stats.binomtest(count, total).proportion_ci(confidence, method="wilson")
    found = share_interval(count, total, confidence)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert found.value == count / total


def test_a_share_by_hand():
    """None of 10 with z = 1.959964: the upper end is z² / (10 + z²) = 3.841459 / 13.841459."""
    found = share_interval(0, 10)
    assert found.low == 0
    assert found.high == pytest.approx(3.841459 / 13.841459, abs=1e-6)


def test_the_difference_of_samples():
    """Standard error √(4/400 + 1/100) = 0.1414 around the difference of the means."""
    generator = np.random.default_rng(0)
    first, second = generator.normal(5, 2, 400), generator.normal(4, 1, 100)
    found = difference_interval(first, second)
    assert found.value == pytest.approx(first.mean() - second.mean())
    expected = 1.96 * math.sqrt(first.var() / 400 + second.var() / 100)
    assert (found.low, found.high) == pytest.approx((found.value - expected, found.value + expected), abs=0.03)
    other = difference_interval(first, second, lambda items: np.median(items, axis=(1, 2)))
    assert other.value == pytest.approx(np.median(first) - np.median(second))
    assert other.low < other.value < other.high


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: mcnemar([1, 0], [1]), "the same items"),
        (lambda: mcnemar([0.5], [1]), "1 for a right answer"),
        (lambda: mcnemar([], []), "at least one"),
        (lambda: permutation_test([1, math.nan], [1, 2]), "finite"),
        (lambda: permutation_test([[1, 2]], [[1, 2]]), "give a statistic"),
        (lambda: permutation_test([1], [2], permutations=0), "at least 1"),
        (lambda: permutation_test([[0.0]], [[1.0]], lambda s: np.full(len(s), np.nan)), "not a number"),
        (lambda: sign_test(-1, 2), "negative"),
        (lambda: share_interval(3, 2), "3 of 2"),
        (lambda: share_interval(0, 0), "at least one"),
        (lambda: share_interval(1, 2, 1.0), "confidence"),
        (lambda: difference_interval([], [1]), "at least one"),
        (lambda: difference_interval([1], [1], confidence=2), "confidence"),
    ],
)
def test_refusals(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
