"""The skew-normal distribution."""

from __future__ import annotations

import math

import numpy as np
import pytest

from posttrain.ops.skew_normal import SkewNormal, distance, fit


def normal_cdf(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2))


@pytest.mark.parametrize("x", [-30.0, -4.0, 0.0, 1.0, 3.0, 12.0])
def test_without_skew_it_is_the_normal_distribution(x):
    assert SkewNormal(1.0, 2.0, 0.0).log_cdf(x) == pytest.approx(math.log(normal_cdf((x - 1) / 2)), rel=1e-6, abs=1e-9)


def test_with_shape_one_it_is_the_larger_of_two_normals():
    """With a = 1 the density 2 phi(z) Phi(z) is the derivative of Phi(z)^2: the larger of two draws."""
    for z in (-20.0, -3.0, -1.0, 0.0, 2.0):
        assert SkewNormal(0.0, 1.0, 1.0).log_cdf(z) == pytest.approx(2 * math.log(normal_cdf(z)), rel=1e-6)


def test_it_agrees_with_scipy_where_scipy_can_tell():
    scipy_stats = pytest.importorskip("scipy.stats")
    for shape in (-8.0, -1.0, 2.0, 5.0):
        for x in (-4.0, 0.0, 2.0, 3.5, 9.0):
            expected = scipy_stats.skewnorm(shape, 3.0, 2.0).cdf(x)
            if expected > 1e-12:  # below, the closed form cancels
                assert math.exp(SkewNormal(3.0, 2.0, shape).log_cdf(x)) == pytest.approx(expected, rel=1e-5)


def test_far_tails_stay_finite():
    assert -1e6 < SkewNormal(0.0, 1.0, 20.0).log_cdf(-30.0) < -1e5
    assert SkewNormal(0.0, 1.0, 3.0).log_cdf(100.0) == pytest.approx(0.0, abs=1e-6)


def test_the_fit_has_the_moments_of_the_sample():
    """mean = location + w d sqrt(2/pi), variance = w^2 (1 - 2 d^2 / pi), with d = a / sqrt(1 + a^2)."""
    sample = np.random.default_rng(0).gamma(4.0, size=500)
    found = fit(sample)
    delta = found.shape / math.sqrt(1 + found.shape**2)
    assert found.location + found.scale * delta * math.sqrt(2 / math.pi) == pytest.approx(sample.mean())
    assert found.scale**2 * (1 - 2 * delta**2 / math.pi) == pytest.approx(sample.var())
    skew = ((sample - sample.mean()) ** 3).mean() / sample.std() ** 3
    theirs = (4 - math.pi) / 2 * (delta * math.sqrt(2 / math.pi)) ** 3 / (1 - 2 * delta**2 / math.pi) ** 1.5
    assert theirs == pytest.approx(min(skew, 0.99))
    mirrored = fit(-sample)
    assert (mirrored.location, mirrored.shape) == pytest.approx((-found.location, -found.shape))


def test_samples_without_spread_are_refused():
    for values in ([], [1.0, 2.0], [3.0, 3.0, 3.0]):
        with pytest.raises(ValueError, match="three values"):
            fit(values)


def test_the_distance_is_the_largest_gap():
    """Of a standard normal and the one value 0 the shares are 1/2 and, from 0 on, 1: the gap is a half."""
    assert distance(SkewNormal(0.0, 1.0, 0.0), [0.0]) == pytest.approx(0.5, abs=1e-6)
    sample = np.random.default_rng(1).normal(size=300)
    assert distance(fit(sample), sample) < 0.06 < distance(SkewNormal(2.0, 1.0, 0.0), sample)
