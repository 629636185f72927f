"""Bootstrap intervals against cases whose answer is known, and Koehn's paired test."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from posttrain.ops import bootstrap
from posttrain.ops.bootstrap import (
    Interval,
    mean_interval,
    paired_statistic_test,
    paired_test,
    ratio_interval,
    statistic_interval,
    sums_interval,
)


def test_constant_items_have_an_interval_of_no_width() -> None:
    interval = mean_interval([0.1] * 13)
    assert interval.low == interval.high == interval.value == pytest.approx(0.1)
    assert (interval.confidence, interval.resamples) == (0.95, 1000)


def test_one_item() -> None:
    assert mean_interval([2.0]) == Interval(2.0, 2.0, 2.0, 0.95, 1000)


def test_two_items_by_hand() -> None:
    """Draws of two from (0, 1) have means 0, 1/2, 1 with chances 1/4, 1/2, 1/4: the middle 40 % are all 1/2."""
    assert mean_interval([0.0, 1.0], confidence=0.4) == Interval(0.5, 0.5, 0.5, 0.4, 1000)
    assert mean_interval([0.0, 1.0], confidence=0.6) == Interval(0.5, 0.0, 1.0, 0.6, 1000)


@pytest.mark.parametrize(("confidence", "quantile"), [(0.95, 1.959964), (0.68, 0.994458)])
def test_agrees_with_the_normal_approximation(confidence: float, quantile: float) -> None:
    values = np.random.default_rng(1).normal(3, 2, size=400)
    interval = mean_interval(values, confidence=confidence, resamples=20_000)
    half_width = quantile * values.std() / math.sqrt(400)
    assert interval.value == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half_width, abs=0.04 * half_width)
    assert interval.high == pytest.approx(values.mean() + half_width, abs=0.04 * half_width)


def test_coverage() -> None:
    """Of 200 samples of 50 the 90 % interval of about 180 holds the true mean; 4 deviations are 17."""
    generator = np.random.default_rng(5)
    intervals = [mean_interval(generator.normal(size=50), confidence=0.9, resamples=400) for _ in range(200)]
    assert 163 <= sum(interval.low <= 0 <= interval.high for interval in intervals) <= 197


def test_seed() -> None:
    values = np.random.default_rng(0).normal(size=30)
    assert mean_interval(values, seed=4) == mean_interval(values, seed=4)
    assert mean_interval(values, seed=4) != mean_interval(values, seed=5)


@pytest.mark.parametrize("limit", [1, 100, 777])
def test_batches_do_not_change_the_draws(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    values = np.random.default_rng(0).normal(size=(37, 2))
    whole = statistic_interval(values, lambda drawn: drawn.prod(-1).mean(-1))
    monkeypatch.setattr(bootstrap, "BATCH_ELEMENTS", limit)
    assert statistic_interval(values, lambda drawn: drawn.prod(-1).mean(-1)) == whole


def test_ratio_is_of_sums_and_not_of_items() -> None:
    """(1 + 9) / (1 + 3) = 2.5, while the mean of the ratios is 2; exp makes it a perplexity."""
    assert ratio_interval([1, 9], [1, 3]).value == 2.5
    perplexity = ratio_interval([1, 9], [1, 3], np.exp)
    assert perplexity.value == pytest.approx(math.exp(2.5))
    # the draws: (1, 1) -> 1, (1, 9) -> 2.5, (9, 9) -> 3
    assert perplexity.low == pytest.approx(math.e)
    assert perplexity.high == pytest.approx(math.exp(3))


def test_ratio_of_proportional_items_has_no_width() -> None:
    tokens = np.arange(1, 20)
    interval = ratio_interval(2 * tokens, tokens)
    assert interval.low == interval.value == interval.high == 2


def test_all_forms_agree_on_the_mean() -> None:
    values = np.random.default_rng(2).exponential(size=60)
    mean = mean_interval(values)
    for other in (
        ratio_interval(values, np.ones(60)),
        sums_interval(values, lambda sums: sums[:, 0] / 60),
        statistic_interval(values, lambda drawn: drawn.mean(-1)),
    ):
        assert (other.value, other.low, other.high) == pytest.approx((mean.value, mean.low, mean.high))


def test_median_by_hand() -> None:
    """The median of one odd value out among many equal ones never moves."""
    interval = statistic_interval([1.0] * 30 + [1000.0], lambda drawn: np.median(drawn, axis=-1))
    assert interval.low == interval.value == interval.high == 1


def test_paired_test_of_clearly_different_systems() -> None:
    """a beats b on every item by 0.1, far less than the items differ among themselves: only pairing can see it."""
    difficulty = np.random.default_rng(3).normal(size=50)
    test = paired_test(difficulty + 0.1, difficulty)
    assert test.value_a - test.value_b == pytest.approx(0.1)
    assert test.difference.low == pytest.approx(0.1)
    assert test.share_a_above == 1
    assert test.p_value == pytest.approx(1 / 1001)
    assert paired_test(difficulty, difficulty + 0.1).share_a_above == 0
    assert paired_test(difficulty, difficulty + 0.1).p_value == test.p_value


def test_paired_test_of_equal_systems() -> None:
    values = np.random.default_rng(3).normal(size=50)
    test = paired_test(values, values)
    assert (test.share_a_above, test.p_value) == (0.5, 1.0)
    assert test.difference.low == test.difference.high == 0


def test_paired_test_by_hand() -> None:
    """Differences (1, 0) a item: a draw shows a ahead unless it takes the second item twice, chance 1/4."""
    test = paired_test([1, 0], [0, 0], resamples=10_000)
    assert test.p_value == pytest.approx(0.25, abs=0.02)
    assert test.share_a_above == pytest.approx(0.75 + 0.25 / 2, abs=0.01)


def test_paired_test_of_noise_is_rarely_significant() -> None:
    """Equal systems with independent noise: a one-sided p for the sign seen is below 0.05 in about 10 % of cases."""
    generator = np.random.default_rng(8)
    p_values = [
        paired_test(generator.normal(size=40), generator.normal(size=40), resamples=200, seed=i).p_value
        for i in range(200)
    ]
    assert 4 <= sum(p < 0.05 for p in p_values) <= 40


def test_paired_test_with_a_statistic_of_sums() -> None:
    """Precision from (hits, guesses): a has 2/2 against 1/2 on every item."""

    def precision(sums: np.ndarray) -> np.ndarray:
        return sums[:, 0] / sums[:, 1]

    test = paired_test([[2, 2]] * 8, [[1, 2]] * 8, precision)
    assert (test.value_a, test.value_b, test.difference.low, test.p_value) == (1.0, 0.5, 0.5, 1 / 1001)


def test_paired_test_of_drawn_items_is_that_of_sums_where_both_can_be_taken() -> None:
    generator = np.random.default_rng(2)
    b = generator.normal(size=(30, 1))
    a = b + generator.normal(0.05, 0.2, size=(30, 1))
    drawn = paired_statistic_test(a, b, lambda items: items[..., 0].mean(1), seed=5)
    summed = paired_test(a, b, seed=5)
    assert (drawn.p_value, drawn.share_a_above) == (summed.p_value, summed.share_a_above)
    assert drawn.difference.low == pytest.approx(summed.difference.low)
    assert drawn.value_a == pytest.approx(summed.value_a)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean_interval([]), "at least one item"),
        (lambda: mean_interval([1.0, math.nan]), "finite"),
        (lambda: mean_interval([1.0], confidence=1.0), "confidence"),
        (lambda: mean_interval([1.0], resamples=0), "resamples"),
        (lambda: mean_interval([[1.0, 2.0]]), "one number an item"),
        (lambda: ratio_interval([1.0], [0.0]), "positive"),
        (lambda: ratio_interval([1.0, 2.0], [1.0]), "same number"),
        (lambda: paired_test([1.0, 2.0], [1.0]), "same items"),
        (lambda: paired_statistic_test([1.0, 2.0], [1.0], lambda items: items.mean((1, 2))), "same items"),
    ],
)
def test_refusals(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_the_standard_error_of_a_mean() -> None:
    """0 and 1 in equal parts: the deviation of a mean of n is 1 / (2 sqrt(n)); one item has none."""
    assert mean_interval([0.0, 1.0] * 50, resamples=4000).stderr == pytest.approx(0.05, rel=0.05)
    assert mean_interval([2.0]).stderr == 0.0
    assert mean_interval([0.0, 1.0], resamples=1).stderr is None
