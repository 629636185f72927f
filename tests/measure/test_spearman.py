"""Spearman correlation: by hand and against SciPy, ties included."""

from __future__ import annotations

import random

import numpy as np
import pytest

from posttrain.measure.spearman import Spearman, rank_correlations, ranks


def test_by_hand():
    """Ranks 1, 2.5, 2.5, 4 and 1, 2, 3, 4: covariance 4.5, variances 4.5 and 5 (summed)."""
    assert ranks(np.array([3.0, 7.0, 7.0, 9.0])).tolist() == [1, 2.5, 2.5, 4]
    found = Spearman().score(["3", "7", "7", "9"], [["10"], ["20"], ["30"], ["400"]])
    assert found.value == pytest.approx(4.5 / (4.5 * 5) ** 0.5)
    assert Spearman().score(["1", "2"], [["1"], ["1e9"]]).value == pytest.approx(1.0)
    assert rank_correlations(np.zeros((1, 3, 2))).tolist() == [0]


def test_equals_scipy():
    stats = pytest.importorskip("scipy.stats", reason="SciPy comes with scikit-learn, of the dev extra")
    generator = random.Random(0)
    theirs = [generator.randrange(8) for _ in range(60)]
    ours = [x + generator.randrange(6) for x in theirs]
    found = Spearman().score([str(x) for x in ours], [[str(x)] for x in theirs])
    assert found.value == pytest.approx(stats.spearmanr(ours, theirs).statistic)
    low, high = stats.bootstrap(
        (ours, theirs), lambda x, y: stats.spearmanr(x, y).statistic, paired=True, vectorized=False,
        method="percentile", n_resamples=1000, rng=0,
    ).confidence_interval  # fmt: skip
    assert found.interval == pytest.approx((low, high), abs=0.05)
    shuffled = [str(x) for x in random.Random(1).sample(ours, len(ours))]
    comparison = Spearman().compare([str(x) for x in ours], shuffled, [[str(x)] for x in theirs])
    assert comparison.difference > 0 and comparison.p_value < 0.05
    assert comparison.interval[0] < comparison.difference < comparison.interval[1]
