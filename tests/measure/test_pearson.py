"""Pearson correlation: by hand and against SciPy."""

from __future__ import annotations

import random

import numpy as np
import pytest

from posttrain.core.errors import BadRequest
from posttrain.measure._numbers import correlations
from posttrain.measure.pearson import Pearson


def test_by_hand():
    """1, 2, 3 and 1, 3, 2: covariance 1, both variances 2 (summed), so 1/2."""
    found = Pearson().score(["1", "2", "3.0"], [["1"], ["3"], ["2e0"]])
    assert found.value == pytest.approx(0.5)
    assert found.interval is None


def test_equals_scipy_and_shift_and_scale_change_nothing():
    stats = pytest.importorskip("scipy.stats", reason="SciPy comes with scikit-learn, of the dev extra")
    generator = random.Random(0)
    theirs = [generator.random() for _ in range(60)]
    ours = [x + generator.gauss(0, 0.4) for x in theirs]
    found = Pearson().score([str(x) for x in ours], [[str(x)] for x in theirs])
    assert found.value == pytest.approx(stats.pearsonr(ours, theirs).statistic)
    low, high = stats.bootstrap(
        (ours, theirs), lambda x, y: stats.pearsonr(x, y).statistic, paired=True, vectorized=False, method="percentile",
        n_resamples=1000, rng=0,
    ).confidence_interval  # fmt: skip
    assert found.interval == pytest.approx((low, high), abs=0.05)
    far = Pearson().score([str(1e9 + 1e-3 * x) for x in ours], [[str(x)] for x in theirs])
    assert far.value == pytest.approx(found.value, abs=1e-3)


def test_a_draw_without_spread_has_no_correlation():
    assert correlations(np.array([[2.0, 2.0, 0.0, 2.0, 2.0, 0.0], [2.0, 0.0, 0.0, 2.0, 2.0, 2.0]])).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("predictions", "references", "sentence"),
    [
        (["1", "many"], [["1"], ["2"]], "Prediction 2 is no number: 'many'."),
        (["1", "2"], [["1"], ["nan"]], "Reference 2 is no number: 'nan'."),
        (["1", "1"], [["1"], ["2"]], "All predictions are 1, so there is no correlation."),
        (["1", "2"], [["2"], ["2"]], "All references are 2"),
        (["1", "2"], [["2", "3"], ["2"]], "exactly one reference"),
    ],
)
def test_refusals(predictions, references, sentence):
    with pytest.raises(BadRequest, match=sentence):
        Pearson().score(predictions, references)


@pytest.mark.parametrize("scale", ["e0", "e-200", "e-320", "e307"])
def test_numbers_of_any_size(scale):
    """x 1, -1, 0 and y 1, 2, 3 have deviations 1, -1, 0 and -1, 0, 1: r = -1 / 2. Squares of such numbers overflow."""
    found = Pearson().score([f"{x}{scale}" for x in (1, -1, 0)], [["1"], ["2"], ["3"]])
    assert found.value == pytest.approx(-0.5)
