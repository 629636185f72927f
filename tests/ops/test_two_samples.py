"""Two samples: distances by hand, tests against scipy and by enumeration, effect sizes by hand."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from posttrain.ops.two_samples import (
    chi_square,
    chi_square_test,
    class_stability_index,
    holm,
    index_by_chance,
    ks_distance,
    ks_test,
    stability_index,
    superiority,
)


def test_distance_by_hand() -> None:
    """Of 1, 2, 3 and 2, 4: after 1 the first has 1/3 and the second 0; after 3 they have 1 and 1/2."""
    assert ks_distance([1, 2, 3], [2, 4]) == pytest.approx(1 / 2)
    assert ks_distance([3, 1], [1, 3]) == 0
    assert ks_distance([1, 2], [3, 4, 5]) == 1


def test_distance_equals_scipy() -> None:
    draw = np.random.default_rng(0)
    for size in (5, 40):
        first, second = draw.integers(0, 9, 30), draw.integers(2, 11, size)  # many ties
        assert ks_distance(first, second) == pytest.approx(stats.ks_2samp(first, second).statistic)


def test_p_value_is_that_of_all_permutations() -> None:
    """Five values are dealt in ten ways; with ties; the estimate lies within four standard errors."""
    values = [1.0, 2.0, 2.0, 3.0, 5.0]
    observed = ks_distance(values[:2], values[2:])
    reached = [
        ks_distance([values[i] for i in chosen], [values[i] for i in range(5) if i not in chosen]) >= observed - 1e-12
        for chosen in combinations(range(5), 2)
    ]
    exact = sum(reached) / 10
    found = ks_test(values[:2], values[2:], permutations=4000)
    assert found == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 4000) + 1 / 4001)
    assert 0 < exact < 1


def test_test_agrees_with_scipy_without_ties() -> None:
    draw = np.random.default_rng(1)
    first, second = draw.normal(0, 1, 60), draw.normal(0.4, 1, 50)
    exact = stats.ks_2samp(first, second, method="exact").pvalue
    assert ks_test(first, second, permutations=8000) == pytest.approx(exact, abs=0.02)
    assert ks_test(first, second, permutations=500) == ks_test(first, second, permutations=500)


def test_false_alarms_are_as_many_as_promised() -> None:
    draw = np.random.default_rng(2)
    found = [ks_test(draw.normal(size=20), draw.normal(size=25), permutations=199) for _ in range(200)]
    assert np.mean(np.array(found) < 0.1) == pytest.approx(0.1, abs=4 * math.sqrt(0.09 / 200))


def test_classes() -> None:
    """[[30, 10], [20, 20]]: rows of 40, columns of 50 and 30, so 25 and 15 are expected, and 4 · 25/… add up."""
    first, second = {"a": 30, "b": 10}, {"a": 20, "b": 20, "c": 0}
    assert chi_square(first, second) == pytest.approx(25 / 25 * 2 + 25 / 15 * 2)
    exact = stats.fisher_exact([[30, 10], [20, 20]]).pvalue
    assert chi_square_test(first, second, permutations=20_000) == pytest.approx(exact, abs=0.01)
    assert chi_square_test({"a": 5}, {"a": 9}, permutations=50) == 1.0


def test_superiority() -> None:
    """Of 1, 2 against 2, 3: 2 > 1, 3 > 1, 3 > 2 and one tie, of four pairs."""
    assert superiority([1, 2], [2, 3]) == (3 + 0.5) / 4
    draw = np.random.default_rng(3)
    first, second = draw.integers(0, 5, 30), draw.integers(1, 6, 40)
    assert superiority(first, second) == pytest.approx(stats.mannwhitneyu(second, first).statistic / (30 * 40))


def test_stability_index_by_hand() -> None:
    """Two bins parted at the median 2 of 1, 2, 3, 4 … : counts 2, 2 and 1, 3, each with a half more.

    Shares 2.5/5 and 2.5/5 against 1.5/5 and 3.5/5: (0.3 - 0.5) ln 0.6 + (0.7 - 0.5) ln 1.4.
    """
    expected = -0.2 * math.log(0.6) + 0.2 * math.log(1.4)
    assert stability_index([1, 2, 3, 4], [1, 3, 3, 4], bins=2) == pytest.approx(expected)
    assert class_stability_index({"x": 2, "y": 2}, {"x": 1, "y": 3}) == pytest.approx(expected)
    assert stability_index([1, 2, 3, 4], [2, 1, 4, 3], bins=2) == 0
    assert stability_index([7, 7, 7], [7, 7], bins=10) == pytest.approx(0, abs=0.05)  # one edge, one bin that counts


def test_the_index_by_chance_is_its_mean_without_drift() -> None:
    draw = np.random.default_rng(4)
    found = [stability_index(draw.normal(size=400), draw.normal(size=300), bins=10) for _ in range(200)]
    assert np.mean(found) == pytest.approx(index_by_chance(400, 300, 10), rel=0.1)


def test_holm_by_hand() -> None:
    """0.01 · 3, 0.02 · 2 and 0.04 · 1, the last raised to what stands before it."""
    assert holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.5, 0.9]) == [1.0, 1.0]


@pytest.mark.parametrize("first", [[], [1.0, math.nan]])
def test_samples_that_can_not_be_compared(first: list[float]) -> None:
    for compare in (ks_distance, superiority, stability_index):
        with pytest.raises(ValueError, match="at least one value, and only finite"):
            compare(first, [1.0])
    with pytest.raises(ValueError, match="at least one value"):
        chi_square({}, {"a": 1})
    with pytest.raises(ValueError, match="at least 2 bins"):
        stability_index([1], [2], bins=1)
