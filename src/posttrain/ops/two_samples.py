"""Whether two samples come from one population, and how far apart they are.

Numbers are compared by the Kolmogorov-Smirnov distance, the largest gap between the two empirical distributions, with a
permutation test, so that ties and small samples are no trouble; counts of classes by Pearson's chi-square, tested the
same way. The p-value of a permutation test is (k + 1) / (n + 1) for the k of n permutations that are at least as far
apart as what was observed (Phipson and Smyth, 2010).

How far is said by effect sizes that don't grow with the samples: the probability that a value of the second sample is
the larger (Vargha and Delaney, 2000; the Mann-Whitney statistic over n m), and the population stability index

    PSI = sum over bins of (q_b - p_b) ln(q_b / p_b),

with bins at the first sample's quantiles. Its customary limits are 0.1 and 0.25, but two samples of n and m values from
one population have a PSI of about (bins - 1)(1/n + 1/m) by chance (Yurdakul, 2018), which small samples must be
measured against. Several p-values are adjusted by Holm (1979).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

# Permutations are made in batches of about so many places.
_BATCH_ELEMENTS = 1 << 21
# Added to each bin's count, so that an empty one has a logarithm.
_HALF = 0.5


def ks_distance(first: ArrayLike, second: ArrayLike) -> float:
    """The largest gap between the empirical distribution functions, in [0, 1].

    Args:
        first: [n].
        second: [m].

    Raises:
        ValueError: If a sample is empty or has numbers that aren't finite.
    """
    one, other = _sample(first), _sample(second)
    last = _steps(one, other)
    of_second = np.argsort(np.concatenate([one, other]), kind="stable") >= len(one)
    return float(_gaps(of_second[None], last, len(one), len(other))[0])


def ks_test(first: ArrayLike, second: ArrayLike, *, permutations: int = 2000, seed: int = 0) -> float:
    """p-value of the Kolmogorov-Smirnov distance under permutations of the two samples.

    Args:
        first: [n].
        second: [m].
        permutations: How many are drawn.
        seed: Of the draws.

    Raises:
        ValueError: As in `ks_distance`.
    """
    one, other = _sample(first), _sample(second)
    observed = ks_distance(one, other)
    last = _steps(one, other)
    generator = np.random.default_rng(seed)
    total = len(one) + len(other)
    labels = np.arange(total) >= len(one)
    reached = 0
    for count in _batches(permutations, total):
        drawn = generator.permuted(np.broadcast_to(labels, (count, total)), axis=1)
        # Equal distances must count, however they are rounded.
        reached += int((_gaps(drawn, last, len(one), len(other)) >= observed - 1e-12).sum())
    return (reached + 1) / (permutations + 1)


def chi_square(first: Mapping[Hashable, int], second: Mapping[Hashable, int]) -> float:
    """Pearson's chi-square of two samples of classes.

    Args:
        first: How often each class occurs.
        second: The same in the second sample.

    Raises:
        ValueError: If a sample is empty.
    """
    return float(_chi_squares(_counts(first, second)[None])[0])


def chi_square_test(
    first: Mapping[Hashable, int], second: Mapping[Hashable, int], *, permutations: int = 2000, seed: int = 0
) -> float:
    """p-value of `chi_square` under permutations of the two samples.

    Args:
        first: How often each class occurs.
        second: The same in the second sample.
        permutations: How many are drawn.
        seed: Of the draws.

    Raises:
        ValueError: If a sample is empty.
    """
    table = _counts(first, second)  # [2, classes]
    observed = float(_chi_squares(table[None])[0])
    # Dealing all items anew into two samples of the old sizes draws the first one's counts without replacement.
    generator = np.random.default_rng(seed)
    sizes, rows = table.sum(0), int(table[0].sum())
    drawn = generator.multivariate_hypergeometric(sizes, rows, size=permutations, method="marginals")
    found = _chi_squares(np.stack([drawn, sizes - drawn], axis=1))
    return (int((found >= observed - 1e-9).sum()) + 1) / (permutations + 1)


def superiority(first: ArrayLike, second: ArrayLike) -> float:
    """The probability that a value of the second sample is larger than one of the first; ties count half.

    Args:
        first: [n].
        second: [m].

    Raises:
        ValueError: As in `ks_distance`.
    """
    one, other = np.sort(_sample(first)), _sample(second)
    below = np.searchsorted(one, other, side="left") + np.searchsorted(one, other, side="right")
    return float(below.sum() / (2 * len(one) * len(other)))


def stability_index(first: ArrayLike, second: ArrayLike, bins: int = 10) -> float:
    """PSI of two samples of numbers.

    Args:
        first: [n]; its quantiles part the bins. Equal quantiles are one edge.
        second: [m].
        bins: At most so many.

    Raises:
        ValueError: As in `ks_distance`, or for fewer than two bins.
    """
    if bins < 2:
        raise ValueError(f"there must be at least 2 bins, not {bins}")
    one, other = _sample(first), _sample(second)
    edges = np.unique(np.quantile(one, np.linspace(0, 1, bins + 1)[1:-1]))
    counts = [np.bincount(np.searchsorted(edges, each, side="left"), minlength=len(edges) + 1) for each in (one, other)]
    return _psi(np.stack(counts))


def class_stability_index(first: Mapping[Hashable, int], second: Mapping[Hashable, int]) -> float:
    """PSI of two samples of classes, each class being a bin.

    Raises:
        ValueError: If a sample is empty.
    """
    return _psi(_counts(first, second))


def index_by_chance(first: int, second: int, bins: int) -> float:
    """The PSI that two samples from one population have on average.

    Args:
        first: Values of the first sample.
        second: Values of the second.
        bins: In how many bins they are counted.
    """
    return (bins - 1) * (1 / first + 1 / second)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for being several: each keeps the share of false alarms among all of them at its level."""
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    found = [0.0] * len(p_values)
    highest = 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        found[place] = highest
    return found


def _sample(values: ArrayLike) -> Array:
    sample = np.asarray(values, dtype=np.float64).ravel()
    if not sample.size or not np.isfinite(sample).all():
        raise ValueError("a sample needs at least one value, and only finite ones")
    return sample


def _steps(one: Array, other: Array) -> NDArray[np.int64]:
    """Of all values ascending the places of the last of equal ones: there the distribution functions step."""
    values = np.sort(np.concatenate([one, other]))
    return np.flatnonzero(np.append(values[1:] != values[:-1], True))


def _gaps(of_second: NDArray[np.bool_], last: NDArray[np.int64], first: int, second: int) -> Array:
    """Largest gaps, [R], from which of the ascending values are the second sample's, [R, n + m]."""
    seen = of_second.cumsum(axis=1, dtype=np.int64)[:, last]  # of the second sample up to each step
    gaps: Array = np.abs(seen / second - (last + 1 - seen) / first).max(axis=1)
    return gaps


def _batches(count: int, width: int) -> list[int]:
    size = max(1, _BATCH_ELEMENTS // width)
    return [min(size, count - start) for start in range(0, count, size)]


def _counts(first: Mapping[Hashable, int], second: Mapping[Hashable, int]) -> NDArray[np.int64]:
    """[2, classes], without classes that never occur."""
    classes = [each for each in dict.fromkeys([*first, *second]) if first.get(each, 0) + second.get(each, 0)]
    table = np.array([[sample.get(each, 0) for each in classes] for sample in (first, second)], dtype=np.int64)
    if not classes or not table.sum(1).all():
        raise ValueError("a sample needs at least one value")
    return table


def _chi_squares(tables: NDArray[np.int64]) -> Array:
    """Of tables [R, 2, classes]: [R]."""
    total = tables.sum((1, 2), keepdims=True)
    expected = tables.sum(2, keepdims=True) * tables.sum(1, keepdims=True) / total
    found: Array = ((tables - expected) ** 2 / expected).sum((1, 2))
    return found


def _psi(counts: NDArray[np.int64]) -> float:
    """Of counts [2, bins], each with half a value more."""
    shares = (counts + _HALF) / (counts.sum(1, keepdims=True) + _HALF * counts.shape[1])
    return float(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum())
