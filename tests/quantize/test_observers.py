"""Contract of the `observer` family, checked on every method the folder holds, and each method by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from posttrain.core import catalog
from posttrain.core.settings import help_of
from posttrain.quantize.observers import Observer
from posttrain.quantize.observers.entropy import Entropy, divergence
from posttrain.quantize.observers.min_max import MinMax
from posttrain.quantize.observers.mse import Mse
from posttrain.quantize.observers.percentile import Percentile


@pytest.fixture(params=catalog.terms("observer"))
def term(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=[True, False], ids=["symmetric", "asymmetric"])
def observer(request: pytest.FixtureRequest, term: str) -> Observer:
    return catalog.build("observer", {term: {"symmetric": request.param}})


def _range(observer: Observer, *batches: torch.Tensor, bits: int = 8) -> tuple[float, float]:
    seen = observer.start()
    for batch in batches:
        seen.see(batch)
    return seen.range(bits)


def _normal(count: int = 10_000, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed))


def test_settings_are_documented(observer: Observer) -> None:
    assert all(help_of(type(observer)).values())


def test_the_range_contains_zero_and_not_more_than_was_seen(observer: Observer) -> None:
    for x in (
        _normal(),
        _normal() + 9,
        _normal() - 9,
        _normal().abs(),
        torch.tensor([3.0]),
        torch.tensor([-1e-6, 7e4]),
    ):
        low, high = _range(observer, x)
        assert low <= 0 <= high
        assert low < high
        if observer.symmetric:
            assert low == -high
            assert high <= float(x.abs().max()) * (1 + 1e-6)
        else:
            assert low >= min(float(x.min()), 0) * (1 + 1e-6)
            assert high <= max(float(x.max()), 0) * (1 + 1e-6)


def test_it_covers_nearly_everything_ordinary(observer: Observer) -> None:
    """Of normal numbers at 8 bits not one in a hundred is clamped, whatever is weighed against what."""
    x = _normal(50_000)
    low, high = _range(observer, x)
    assert ((x < low) | (x > high)).float().mean() < 0.01


def test_the_scale_of_the_values_is_the_scale_of_the_range(observer: Observer) -> None:
    x = _normal()
    low, high = _range(observer, x)
    scaled = _range(observer, x * 1024)
    assert scaled == pytest.approx((low * 1024, high * 1024), rel=1e-4, abs=1e-2)


def test_batches_may_have_any_shape_and_type(observer: Observer) -> None:
    x = _normal(2**12).bfloat16()
    assert _range(observer, x.view(2, 8, -1)) == _range(observer, x)


def test_what_was_seen_isnt_kept(observer: Observer) -> None:
    """Its state is as large after a hundred batches as after one."""

    def size(value: object) -> int:
        if isinstance(value, torch.Tensor):
            return value.numel()
        return sum(map(size, vars(value).values())) if hasattr(value, "__dict__") else 1

    seen = observer.start()
    seen.see(_normal(1000))
    before = size(seen)
    for seed in range(100):
        seen.see(_normal(1000, seed) * (1 + seed))
    assert size(seen) == before


def test_two_observations_are_independent(observer: Observer) -> None:
    first, second = observer.start(), observer.start()
    first.see(_normal())
    second.see(_normal() * 100)
    assert first.range(8) == _range(observer, _normal())


def test_zeros_have_a_range_of_zero(observer: Observer) -> None:
    assert _range(observer, torch.zeros(10)) == (0.0, 0.0)


def test_min_max_by_hand() -> None:
    batches = (torch.tensor([-1.0, 2.0]), torch.tensor([-5.0, 1.0]))
    assert _range(MinMax(symmetric=False), *batches) == (-5.0, 2.0)
    assert _range(MinMax(), *batches) == (-5.0, 5.0)


def test_moving_average_by_hand() -> None:
    """0.9 · (-1, 2) + 0.1 · (-5, 1) = (-1.4, 1.9)."""
    batches = (torch.tensor([-1.0, 2.0]), torch.tensor([-5.0, 1.0]))
    assert _range(MinMax(symmetric=False, moving_average=0.9), *batches) == pytest.approx((-1.4, 1.9))
    assert _range(MinMax(moving_average=0.9), *batches) == pytest.approx((-1.9, 1.9))


def test_percentile_by_hand() -> None:
    """Of 0 … 999 in absolute value 99 % lie below 990; with both tails counted, 0.5 % are left out at each end."""
    x = torch.arange(1000.0)
    assert _range(Percentile(percent=99), x * torch.tensor([1.0, -1.0]).repeat(500))[1] == pytest.approx(990, abs=1)
    low, high = _range(Percentile(percent=99, symmetric=False), x - 500)
    assert (low, high) == pytest.approx((-495, 495), abs=1)
    assert _range(Percentile(percent=100), x) == (-999.0, 999.0)


def test_mse_finds_the_least_error() -> None:
    """Against every candidate tried out on the values themselves, in float64, at 4 bits."""
    x = torch.cat([_normal(5000), torch.tensor([12.0])])
    found = _range(Mse(), x, bits=4)[1]

    def error(limit: float) -> float:
        step = limit / 7
        rounded = (x.double() / step).round().clamp(-7, 7) * step
        return float((rounded - x).square().sum())

    best = min((12 * i / 100 for i in range(1, 101)), key=error)
    assert found == pytest.approx(best, rel=0.03)
    assert error(found) <= error(best) * 1.001
    assert found < 6  # one number of 5,001 is clamped, so that the others have finer steps


def test_mse_keeps_two_values_that_fit() -> None:
    assert _range(Mse(), torch.tensor([-127.0, 1.0] * 5)) == pytest.approx((-127.0, 127.0), rel=0.02)


def test_divergence_by_hand() -> None:
    """Eight bins 1 2 3 4 | 1 1 0 2, threshold behind the sixth, three levels of two bins each.

    P is 1 2 3 4 1 1+2; Q spreads (1+2), (3+4), (1+1) over their bins: 1.5 1.5 3.5 3.5 1 1, both divided by their sums.
    """
    counts = np.array([1, 2, 3, 4, 1, 1, 0, 2], dtype=np.float64)
    p = np.array([1, 2, 3, 4, 1, 3]) / 14
    q = np.array([1.5, 1.5, 3.5, 3.5, 1, 1]) / 12
    expected = sum(a * math.log(a / b) for a, b in zip(p, q))
    assert divergence(counts, bins=6, levels=3) == pytest.approx(expected)
    assert divergence(counts, bins=8, levels=8) == pytest.approx(0, abs=1e-3)


def test_an_empty_bin_stays_empty() -> None:
    """4 0 | 2 2 on two levels: the level of the first two bins has one occupied bin, which gets all 4."""
    counts = np.array([4, 0, 2, 2], dtype=np.float64)
    assert divergence(counts, bins=4, levels=2) == pytest.approx(0, abs=1e-3)
    assert divergence(np.array([0.0, 0, 0, 5]), bins=2, levels=2) == math.inf


def test_entropy_cuts_off_a_lonely_outlier() -> None:
    x = torch.cat([_normal(100_000), torch.tensor([60.0])])
    low, high = _range(Entropy(), x)
    assert 2.5 < high < 20
    assert low == -high
    assert _range(Entropy(symmetric=False), x.abs())[0] == 0.0


def test_entropy_knows_the_number_of_levels() -> None:
    """With fewer levels a narrower range loses less."""
    x = torch.cat([_normal(100_000), 20 * torch.rand(100, generator=torch.Generator().manual_seed(1))])
    assert _range(Entropy(), x, bits=4)[1] < _range(Entropy(), x, bits=8)[1]
