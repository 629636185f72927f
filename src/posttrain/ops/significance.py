"""Tests of paired systems that hold for few items, and intervals of shares and of differences of two samples.

- McNemar's test, exact: of the items that only one of two systems got right, how many should be the first's if a coin
  decided (McNemar, 1947, "Note on the sampling error of the difference between correlated proportions"; the exact form
  is the sign test).
- Approximate randomisation: each item's outcomes of the two systems change places or not, which leaves every figure's
  distribution as it is if the systems don't differ (Noreen, 1989, "Computer-Intensive Methods for Testing Hypotheses";
  Yeh, 2000, "More accurate tests for the statistical significance of result differences"). Where few items differ, all
  exchanges are tried and the p-value is exact; otherwise it is (k + 1) / (n + 1) for the k of n draws that are at least
  as far apart as what was observed (Phipson and Smyth, 2010).
- Wilson's interval of a share (Wilson, 1927), which holds for shares near 0 and 1 and for few items.
- A bootstrap interval for the difference of two samples that aren't paired.

All p-values are two-sided. The paired bootstrap is `posttrain.ops.bootstrap.paired_test`, Holm's correction for several
tests `posttrain.ops.two_samples.holm`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from posttrain.ops.bootstrap import Interval

Array = NDArray[np.float64]

# Exchanges are drawn in batches of about so many items.
_BATCH_ELEMENTS = 1 << 21
# Of figures of equal draws, as a share of the observed difference: they must count, however they are rounded.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class McNemar:
    """Two systems' right and wrong answers to the same items.

    Attributes:
        both: Items that both got right.
        only_first: Items that only the first got right.
        only_second: Items that only the second got right.
        neither: Items that neither got right.
        p_value: Exact and two-sided; 1 where the two never differ.
    """

    both: int
    only_first: int
    only_second: int
    neither: int
    p_value: float


def mcnemar(first: ArrayLike, second: ArrayLike) -> McNemar:
    """McNemar's exact test.

    Args:
        first: [n], 1 where the first system is right, otherwise 0.
        second: The same for the second system and the same items.

    Raises:
        ValueError: If there are no items, the numbers differ, or a value is neither 0 nor 1.
    """
    one, other = _pairs(first, second)
    if not (np.isin(one, (0, 1)).all() and np.isin(other, (0, 1)).all()):
        raise ValueError("McNemar's test takes 1 for a right answer and 0 for a wrong one")
    right, others_right = one[:, 0] == 1, other[:, 0] == 1
    only_first, only_second = int((right & ~others_right).sum()), int((~right & others_right).sum())
    return McNemar(
        both=int((right & others_right).sum()),
        only_first=only_first,
        only_second=only_second,
        neither=int((~right & ~others_right).sum()),
        p_value=sign_test(only_first, only_second),
    )


def sign_test(one: int, other: int) -> float:
    """The probability that a fair coin falls at least as unequally as `one` times this side, `other` times that.

    Raises:
        ValueError: If a count is negative.
    """
    if min(one, other) < 0:
        raise ValueError(f"counts can't be negative: {one}, {other}")
    tosses, fewer = one + other, min(one, other)
    ways = term = 1  # of no toss on the rarer side; whole numbers, because the coefficients exceed float64
    for count in range(fewer):
        term = term * (tosses - count) // (count + 1)
        ways += term
    return min(1.0, 2 * ways / 2**tosses)


def permutation_test(
    first: ArrayLike,
    second: ArrayLike,
    statistic: Callable[[Array], Array] | None = None,
    *,
    permutations: int = 10_000,
    seed: int = 0,
) -> float:
    """p-value of a difference between paired systems, by exchanging what items add to them.

    Args:
        first: [n, k] or [n], what each item adds to the first system's figure.
        second: The same for the second; row i of both belongs to the same item.
        statistic: Maps the sums over items of R draws, [R, k], to R figures, [R]; None for the mean of one number an
            item.
        permutations: How many exchanges are drawn; all are tried where there are no more than this.
        seed: Of the draws.

    Raises:
        ValueError: If there are no items, the shapes differ, or numbers aren't finite.
    """
    one, other = _pairs(first, second)
    if statistic is None and one.shape[1] != 1:
        raise ValueError(f"a mean takes one number an item, not {one.shape[1]}: give a statistic of the sums")
    figure = statistic if statistic is not None else lambda sums: sums[:, 0] / len(one)
    changes = other - one  # what the first system's sums gain where an item is exchanged
    changes = changes[changes.any(axis=1)]
    sums, others_sums = one.sum(0), other.sum(0)

    def differences(exchanged: NDArray[np.bool_]) -> Array:
        """Of the figures, [R], for exchanges [R, m]."""
        moved = exchanged.astype(np.float64) @ changes
        return figure(sums + moved) - figure(others_sums - moved)

    return _share_as_far(differences, len(changes), permutations, seed)


def permutation_statistic_test(
    first: ArrayLike,
    second: ArrayLike,
    statistic: Callable[[Array], Array],
    *,
    permutations: int = 1000,
    seed: int = 0,
) -> float:
    """`permutation_test` for a figure of the items themselves, such as a rank correlation.

    Args:
        first: [n, k], the items of the first system.
        second: The same for the second; row i of both belongs to the same item.
        statistic: Maps R sets of items, [R, n, k], to R figures, [R].
        permutations: See `permutation_test`.
        seed: See `permutation_test`.

    Raises:
        ValueError: See `permutation_test`.
    """
    one, other = _pairs(first, second)
    differing = np.flatnonzero((one != other).any(axis=1))

    def differences(exchanged: NDArray[np.bool_]) -> Array:
        whole = np.zeros((len(exchanged), len(one), 1), dtype=bool)
        whole[:, differing, 0] = exchanged
        return statistic(np.where(whole, other, one)) - statistic(np.where(whole, one, other))

    return _share_as_far(differences, len(differing), permutations, seed, width=one.size)


def _share_as_far(
    differences: Callable[[NDArray[np.bool_]], Array],
    items: int,
    permutations: int,
    seed: int,
    width: int | None = None,
) -> float:
    """The share of exchanges of `items` that lie at least as far apart as none does."""
    if permutations < 1:
        raise ValueError(f"permutations must be at least 1, not {permutations}")
    observed = abs(float(differences(np.zeros((1, items), dtype=bool))[0]))
    if math.isnan(observed):
        raise ValueError("the figure of a system is not a number")
    every = 2**items <= permutations
    reached = total = 0
    batches = _all_exchanges(items) if every else _drawn_exchanges(items, permutations, seed, width or items)
    for exchanged in batches:
        # A draw whose figure isn't defined can't be said to lie nearer.
        nearer = np.abs(differences(exchanged)) < observed * (1 - _ROUNDING)
        reached += int((~nearer).sum())
        total += len(exchanged)
    return reached / total if every else (reached + 1) / (total + 1)


def _all_exchanges(items: int) -> Iterator[NDArray[np.bool_]]:
    numbers = np.arange(2**items)
    yield (numbers[:, None] >> np.arange(items)) & 1 == 1


def _drawn_exchanges(items: int, permutations: int, seed: int, width: int) -> Iterator[NDArray[np.bool_]]:
    generator = np.random.default_rng(seed)
    batch = max(1, _BATCH_ELEMENTS // max(1, width))
    for start in range(0, permutations, batch):
        yield generator.integers(0, 2, size=(min(batch, permutations - start), items), dtype=np.int8) == 1


def share_interval(count: int, total: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval of a share.

    Args:
        count: How many of the items.
        total: Of how many, at least one.
        confidence: In (0, 1).

    Raises:
        ValueError: If a number is out of range.
    """
    if not 0 <= count <= total or total < 1:
        raise ValueError(f"a share needs at least one item and no more than all of them: {count} of {total}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1), not {confidence}")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = count / total
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    low, high = max(0.0, middle - half), min(1.0, middle + half)
    # At the ends the interval reaches exactly 0 and 1, but for rounding.
    return Interval(share, low if count else 0.0, high if count < total else 1.0, confidence, 0)


def difference_interval(
    first: ArrayLike,
    second: ArrayLike,
    statistic: Callable[[Array], Array] | None = None,
    *,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Bootstrap interval for the difference of two samples' figures; each sample is drawn anew from its own items.

    Args:
        first: [n, k] or [n].
        second: [m, k] or [m], other items than the first.
        statistic: Maps R draws, [R, n, k], to R figures, [R]; None for the mean of one number an item.
        confidence: Share of the draws that lie in the interval, in (0, 1).
        resamples: Number of draws.
        seed: Of the draws.

    Raises:
        ValueError: If a sample is empty or has numbers that aren't finite, or a setting is out of range.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1), not {confidence}")
    generator = np.random.default_rng(seed)
    samples = [_items(values) for values in (first, second)]
    figure = statistic if statistic is not None else lambda items: items.mean((1, 2))
    values = [float(figure(sample[None])[0]) for sample in samples]
    one, other = (_resampled(sample, figure, resamples, generator) for sample in samples)
    tail = (1 - confidence) / 2
    low, high = np.quantile(one - other, [tail, 1 - tail])
    return Interval(values[0] - values[1], float(low), float(high), confidence, resamples)


def _resampled(
    sample: Array, figure: Callable[[Array], Array], resamples: int, generator: np.random.Generator
) -> Array:
    batch = max(1, _BATCH_ELEMENTS // sample.size)
    sizes = [min(batch, resamples - start) for start in range(0, resamples, batch)]
    return np.concatenate([figure(sample[generator.integers(0, len(sample), (r, len(sample)))]) for r in sizes])


def _pairs(first: ArrayLike, second: ArrayLike) -> tuple[Array, Array]:
    """Both as [n, k] float64."""
    if np.shape(first) != np.shape(second):
        raise ValueError(f"paired systems need the same items: {list(np.shape(first))} and {list(np.shape(second))}")
    return _items(first), _items(second)


def _items(values: ArrayLike) -> Array:
    """As [n, k] float64."""
    items = np.asarray(values, dtype=np.float64)
    if items.ndim == 1:
        items = items[:, None]
    if items.ndim != 2 or not items.size:
        raise ValueError(f"items must be [n] or [n, k] with at least one, not {list(np.shape(values))}")
    if not np.isfinite(items).all():
        raise ValueError("values must be finite")
    return items
