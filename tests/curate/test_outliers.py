"""Outliers: the modified z-score and the conformal p-value by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from posttrain.core.errors import BadRequest
from posttrain.curate.outliers import ReferenceSet


def test_z_by_hand() -> None:
    """1 to 10 and 100: the median is 6, the deviations 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 94 have the median 3."""
    found = ReferenceSet([*range(1, 11), 100])
    assert (found.median, found.deviation) == (6, 3)
    assert found.z([6, 9, 0, 100]).tolist() == pytest.approx([0, 0.6745, -0.6745 * 2, 0.6745 * 94 / 3])


def test_without_a_deviation_the_mean_one_takes_its_place() -> None:
    """Nine equal values and one 10 higher: MAD is 0, the mean absolute deviation 1."""
    found = ReferenceSet([5.0] * 9 + [15.0])
    assert found.z([7.0]).tolist() == pytest.approx([0.7979 * 2])
    level = ReferenceSet([5.0] * 10)
    assert level.z([5.0, 6.0, 4.0]).tolist() == [0, math.inf, -math.inf]


def test_quality_by_hand() -> None:
    """Of 1 to 10 three are as low as 3, with the value itself 4 of 11, twice; beyond 10 and below 1 only itself."""
    found = ReferenceSet(list(range(1, 11)))
    assert found.quality([3, 10.5, 0, 10, 5.5]).tolist() == pytest.approx([8 / 11, 2 / 11, 2 / 11, 4 / 11, 1])


def test_of_the_same_population_a_share_of_q_has_a_quality_below_q() -> None:
    draw = np.random.default_rng(0)
    values = draw.gamma(2, 1, size=4000)
    quality = ReferenceSet(values[:2000].tolist()).quality(values[2000:].tolist())
    for share in (0.05, 0.5, 0.9):
        assert np.mean(quality <= share) == pytest.approx(share, abs=0.05)


def test_too_few_texts_are_refused() -> None:
    with pytest.raises(BadRequest, match="has 9 texts; at least 10"):
        ReferenceSet([1.0] * 9)
