"""The histogram: counts by hand, and against numpy on a stream whose range grows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from posttrain.quantize.histogram import Histogram


def test_counts_by_hand() -> None:
    """Four bins of width 2 around zero for a largest value of 4: -4 … -2, -2 … 0, 0 … 2, 2 … 4."""
    histogram = Histogram(half=2)
    histogram.add(torch.tensor([[-3.0, -0.5], [0.0, 4.0]]))
    assert histogram.width == 2.0
    assert histogram.counts.tolist() == [1, 1, 1, 1]
    assert (histogram.minimum, histogram.maximum) == (-3.0, 4.0)
    assert histogram.magnitudes().tolist() == [2, 2]
    assert histogram.centers().tolist() == [-3.0, -1.0, 1.0, 3.0]


def test_a_larger_number_doubles_the_width() -> None:
    """After 9 the width is 8 (4 · 2 isn't 9, 8 · 2 is): what lay in -4 … 4 lies in the inner bins."""
    histogram = Histogram(half=2)
    histogram.add(torch.tensor([-3.0, -0.5, 0.0, 4.0]))
    histogram.add(torch.tensor([9.0]))
    assert histogram.width == 8.0
    assert histogram.counts.tolist() == [0, 2, 2, 1]


def test_zeros_alone_and_then_something() -> None:
    histogram = Histogram(half=2)
    histogram.add(torch.zeros(5))
    assert histogram.width == 0.0
    assert histogram.quantile(0.5) == histogram.magnitude_quantile(0.99) == 0.0
    histogram.add(torch.tensor([1.0]))
    assert histogram.counts.tolist() == [0, 0, 5, 1]


def test_in_pieces_as_at_once_and_as_numpy() -> None:
    generator = np.random.default_rng(0)
    pieces = [generator.normal(size=500) * scale for scale in (0.1, 3.0, 1.0, 40.0)]
    histogram = Histogram(half=64)
    for piece in pieces:
        histogram.add(torch.tensor(piece, dtype=torch.float32))
    edges = np.arange(-64, 65) * histogram.width
    expected, _ = np.histogram(np.concatenate(pieces).astype(np.float32), edges)
    assert histogram.counts.tolist() == expected.tolist()
    largest = np.abs(np.concatenate(pieces)).max()
    assert 64 * histogram.width / 2 < largest <= 64 * histogram.width


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9, 0.999, 1.0])
def test_quantiles_to_a_bin(share: float) -> None:
    values = torch.randn(20_000, generator=torch.Generator().manual_seed(0)).exp() - 1
    histogram = Histogram()
    histogram.add(values)
    assert histogram.quantile(share) == pytest.approx(np.quantile(values, share), abs=2 * histogram.width)
    expected = np.quantile(values.abs(), share)
    assert histogram.magnitude_quantile(share) == pytest.approx(expected, abs=2 * histogram.width)


def test_half_precision_is_counted_too() -> None:
    histogram = Histogram(half=2)
    histogram.add(torch.tensor([-1.0, 1.0], dtype=torch.bfloat16))
    assert histogram.counts.sum() == 2
