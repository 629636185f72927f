"""Bootstrap confidence intervals and the paired bootstrap test, for figures computed from many items.

Items (sentences, documents, windows) are drawn anew with replacement, as many as there are, and the figure is computed
on each draw. Intervals are the percentiles of these figures (Efron, 1979; Efron and Tibshirani, 1993, chapter 13); the
test between two systems follows Koehn (2004, "Statistical Significance Tests for Machine Translation Evaluation").

Items must be independent draws from what the figure is about: tokens of one text are not, so use texts as items. Left
out: bias-corrected intervals; with fewer than about 20 items percentile intervals are too narrow.

The same seed gives the same draws for the same number of items, so systems scored on one test set stay comparable.
Memory is bounded: draws are made in batches of about `BATCH_ELEMENTS` item indices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

BATCH_ELEMENTS = 1 << 20

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A figure and the percentile interval around it."""

    value: float
    """The figure on all items, each once."""

    low: float
    high: float
    confidence: float
    resamples: int
    stderr: float | None = field(default=None, compare=False)
    """The deviation of the figures on the draws: the bootstrap's estimate of the standard error."""


@dataclass(frozen=True)
class PairedTest:
    """How surely the figures of two systems differ on the same items."""

    value_a: float
    value_b: float

    difference: Interval
    """Of value_a - value_b."""

    share_a_above: float
    """The share of resamples in which a's figure is above b's; ties count half."""

    p_value: float
    """One-sided: (k + 1) / (resamples + 1) for the k resamples that do not show the observed sign of the difference;
    1 when no difference was observed. Below 0.05 Koehn calls the difference significant at the 95 % level."""


def mean_interval(values: ArrayLike, *, confidence: float = 0.95, resamples: int = 1000, seed: int = 0) -> Interval:
    """Interval for the mean of one number an item.

    Args:
        values: [n].
        confidence: Share of the resamples that lie in the interval, in (0, 1).
        resamples: Number of draws.
        seed: Seed of the draws.

    Raises:
        ValueError: No items, numbers that are not finite, or settings out of range.
    """
    items = _items(values)
    return sums_interval(items, _mean(len(items)), confidence=confidence, resamples=resamples, seed=seed)


def ratio_interval(
    numerators: ArrayLike,
    denominators: ArrayLike,
    transform: Callable[[Array], Array] | None = None,
    *,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Interval for transform(sum of numerators / sum of denominators), the two of an item always drawn together.

    Perplexity over texts is `ratio_interval(nll_sums, token_counts, np.exp)`.

    Args:
        numerators: [n].
        denominators: [n], positive.
        transform: Elementwise and monotone, or None for the ratio itself.
        confidence, resamples, seed: As in `mean_interval`.

    Raises:
        ValueError: As in `mean_interval`, arrays that differ in length, or a denominator that is not positive.
    """
    above, below = _items(numerators), _items(denominators)
    if above.shape != below.shape or above.shape[1] != 1:
        raise ValueError(f"numerators and denominators need the same number of items: {len(above)} and {len(below)}")
    items = np.concatenate([above, below], axis=1)
    if (items[:, 1] <= 0).any():
        raise ValueError("denominators must be positive")

    def ratio(sums: Array) -> Array:
        value = sums[:, 0] / sums[:, 1]
        return value if transform is None else transform(value)

    return sums_interval(items, ratio, confidence=confidence, resamples=resamples, seed=seed)


def sums_interval(
    values: ArrayLike,
    statistic: Callable[[Array], Array],
    *,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Interval for any figure computed from sums over items, such as corpus BLEU or F1 from counts an item.

    Args:
        values: [n, k], or [n] for k = 1.
        statistic: Maps the sums of R draws, [R, k], to R figures, [R].
        confidence, resamples, seed: As in `mean_interval`.

    Raises:
        ValueError: As in `mean_interval`.
    """
    items = _items(values)
    figures = statistic(_resampled_sums(items, resamples, seed))
    return _interval(float(statistic(_sums(items))[0]), figures, confidence)


def statistic_interval(
    values: ArrayLike,
    statistic: Callable[[Array], Array],
    *,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Interval for any figure of the drawn items themselves, such as a median or a correlation.

    Args:
        values: [n, k], or [n] for k = 1.
        statistic: Maps R draws, [R, n, k], or [R, n] when `values` is [n], to R figures, [R].
        confidence, resamples, seed: As in `mean_interval`.

    Raises:
        ValueError: As in `mean_interval`.
    """
    items = _items(values)
    drawn = items if np.ndim(values) == 2 else items[:, 0]
    width = items.shape[1]
    figures = np.concatenate([statistic(drawn[draw]) for draw in _draws(len(items), resamples, seed, width)])
    return _interval(float(statistic(drawn[None])[0]), figures, confidence)


def paired_test(
    a: ArrayLike,
    b: ArrayLike,
    statistic: Callable[[Array], Array] | None = None,
    *,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> PairedTest:
    """Paired bootstrap: both systems are scored on the same draws, so that the items' difficulty cancels.

    Args:
        a: [n, k] or [n], what each item adds to system a's figure.
        b: The same for system b; row i of both belongs to the same item.
        statistic: Maps the sums of R draws, [R, k], to R figures; None for the mean of one number an item.
        confidence, resamples, seed: As in `mean_interval`.

    Raises:
        ValueError: As in `mean_interval`, or shapes that differ.
    """
    items_a, items_b = _items(a), _items(b)
    if items_a.shape != items_b.shape:
        raise ValueError(f"paired systems need the same items: {list(items_a.shape)} and {list(items_b.shape)}")
    figure = _mean(len(items_a)) if statistic is None else statistic
    value_a, value_b = (float(figure(_sums(items))[0]) for items in (items_a, items_b))
    figures_a, figures_b = (figure(_resampled_sums(items, resamples, seed)) for items in (items_a, items_b))
    return _paired(value_a, value_b, figures_a, figures_b, confidence)


def paired_statistic_test(
    a: ArrayLike,
    b: ArrayLike,
    statistic: Callable[[Array], Array],
    *,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> PairedTest:
    """The paired bootstrap for a figure of the drawn items themselves, such as a rank correlation.

    Args:
        a: [n, k], the items of system a.
        b: The same for system b; row i of both belongs to the same item.
        statistic: As in `statistic_interval`.
        confidence, resamples, seed: As in `mean_interval`.

    Raises:
        ValueError: As in `paired_test`.
    """
    items_a, items_b = _items(a), _items(b)
    if items_a.shape != items_b.shape:
        raise ValueError(f"paired systems need the same items: {list(items_a.shape)} and {list(items_b.shape)}")
    draws = [
        (statistic(items_a[d]), statistic(items_b[d])) for d in _draws(len(items_a), resamples, seed, items_a[0].size)
    ]
    figures_a, figures_b = (np.concatenate(figures) for figures in zip(*draws))
    value_a, value_b = (float(statistic(items[None])[0]) for items in (items_a, items_b))
    return _paired(value_a, value_b, figures_a, figures_b, confidence)


def _paired(value_a: float, value_b: float, figures_a: Array, figures_b: Array, confidence: float) -> PairedTest:
    """The test from the figures of both systems on all items and on the same draws."""
    differences = figures_a - figures_b
    observed = value_a - value_b
    against = np.count_nonzero(np.sign(differences) != np.sign(observed))
    return PairedTest(
        value_a=value_a,
        value_b=value_b,
        difference=_interval(observed, differences, confidence),
        share_a_above=float(np.mean((np.sign(differences) + 1) / 2)),
        p_value=(int(against) + 1) / (len(differences) + 1) if observed else 1.0,
    )


def _items(values: ArrayLike) -> Array:
    """The items as [n, k] float64."""
    items = np.asarray(values, dtype=np.float64)
    if items.ndim == 1:
        items = items[:, None]
    if items.ndim != 2 or not items.size:
        raise ValueError(f"values must be [n] or [n, k] with at least one item, not {list(np.shape(values))}")
    if not np.isfinite(items).all():
        raise ValueError("values must be finite")
    return items


def _mean(count: int) -> Callable[[Array], Array]:
    def mean(sums: Array) -> Array:
        if sums.shape[1] != 1:
            raise ValueError(f"a mean takes one number an item, not {sums.shape[1]}: give a statistic of the sums")
        return sums[:, 0] / count

    return mean


def _draws(count: int, resamples: int, seed: int, width: int) -> Iterator[NDArray[np.int64]]:
    """Batches of draws, [r, n] indices, so small that r * n * width stays near the limit."""
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, not {resamples}")
    generator = np.random.default_rng(seed)
    batch = max(1, BATCH_ELEMENTS // (count * width))
    for start in range(0, resamples, batch):
        yield generator.integers(0, count, size=(min(batch, resamples - start), count))


def _sums(items: Array) -> Array:
    """Sums over all items, [1, k], added in the order that `_resampled_sums` adds a draw."""
    return np.ascontiguousarray(items.T).sum(-1)[None]


def _resampled_sums(items: Array, resamples: int, seed: int) -> Array:
    """Sums over each draw, [resamples, k]."""
    columns = np.ascontiguousarray(items.T)
    batches = [
        np.stack([column[draw].sum(-1) for column in columns], axis=-1)
        for draw in _draws(len(items), resamples, seed, width=1)
    ]
    return np.concatenate(batches)


def _interval(value: float, figures: Array, confidence: float) -> Interval:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1), not {confidence}")
    tail = (1 - confidence) / 2
    low, high = np.quantile(figures, [tail, 1 - tail])
    stderr = float(np.std(figures, ddof=1)) if len(figures) > 1 else None
    return Interval(value, float(low), float(high), confidence, len(figures), stderr)
