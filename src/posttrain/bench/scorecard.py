"""Entries of a scorecard: a figure with interval, unit and direction, and which of several models is surely ahead.

An entry keeps what each item adds to its figure, so that intervals and comparisons come from one bootstrap over items:
two models are compared on the same draws (Koehn, 2004, "Statistical Significance Tests for Machine Translation
Evaluation"). What can't be measured has no value and says why. Groups of items are columns of a table, whose means give
the worst group and the largest gap. Left out: corrections for many comparisons.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from posttrain.ops.bootstrap import paired_test, sums_interval

# Percentile intervals from fewer items than this are too narrow.
FEWEST_ITEMS = 20
# Below this share sizes differ by their cards and the like.
_SAME_SIZE = 0.01

Array = NDArray[np.float64]
Better = Literal["higher", "lower"]
Statistic = Callable[[Array], Array]


@dataclass(frozen=True)
class Sample:
    """What each item adds to a figure.

    Attributes:
        items: [n, k].
        statistic: Maps the sums of R draws of n items, [R, k], to R figures, [R].
    """

    items: Array
    statistic: Statistic


@dataclass(frozen=True)
class Entry:
    """A figure of a model.

    Attributes:
        value: The figure; None if it couldn't be measured.
        n: Items, or runs, it was computed from; 0 for what is counted and not sampled.
        unit: What it counts: ``share``, ``points`` for differences of shares, ``nats``, ``bytes``, ``seconds`` …
        better: The direction that is better; None where there is a `goal`, or where no direction is.
        goal: The best value, for figures that may err to both sides.
        interval: 95 % bootstrap interval over items, or lowest and highest of repeated runs; None from fewer than 20
            items, and for what is counted and not sampled.
        by_chance: What would be seen without the quality that is asked about: the accuracy of guessing, the
            calibration error of a calibrated model, the gap between groups drawn at random.
        reason: Why there is no value.
        exact: Whether it is a count in which every difference is real.
        sample: What each item adds, for comparisons.
    """

    value: float | None
    n: int
    unit: str = "share"
    better: Better | None = "higher"
    goal: float | None = None
    interval: tuple[float, float] | None = None
    by_chance: float | None = None
    reason: str = ""
    exact: bool = False
    sample: Sample | None = field(default=None, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form: everything but the sample; `reason` only where there is one."""
        return {
            "value": self.value,
            "interval": list(self.interval) if self.interval else None,
            "n": self.n,
            "unit": self.unit,
            "better": self.better,
            "goal": self.goal,
            "by_chance": self.by_chance,
            **({"reason": self.reason} if self.reason else {}),
        }

    def merit(self, values: Array) -> Array:
        """Figures turned so that more is better."""
        if self.goal is not None:
            return -np.abs(values - self.goal)
        return -values if self.better == "lower" else values


def entry_of(
    items: ArrayLike,
    statistic: Statistic | None = None,
    *,
    unit: str = "share",
    better: Better | None = "higher",
    goal: float | None = None,
    by_chance: float | None = None,
) -> Entry:
    """An entry from what each item adds to it.

    Args:
        items: [n] or [n, k], at least one item.
        statistic: See `Sample`; None for the mean of one number an item.
        unit, better, goal, by_chance: See `Entry`.

    Raises:
        ValueError: No items, or numbers that aren't finite.
    """
    rows = np.asarray(items, dtype=np.float64)
    rows = rows[:, None] if rows.ndim == 1 else rows
    count = len(rows)
    sample = Sample(rows, statistic if statistic is not None else lambda sums: sums[:, 0] / count)
    found = sums_interval(rows, sample.statistic)
    interval = (found.low, found.high) if count >= FEWEST_ITEMS else None
    return Entry(found.value, count, unit, better, goal, interval, by_chance, sample=sample)


def counted(value: float, unit: str, better: Better | None = "lower") -> Entry:
    """An entry that is counted and not sampled, such as bytes."""
    return Entry(value, 0, unit, better, exact=True)


def repeated(runs: Sequence[float], unit: str, better: Better) -> Entry:
    """An entry from several runs of the same work: the best one, with the lowest and highest as its interval.

    Whatever else a machine does can only make a run worse, so the best is nearest to the truth.
    """
    best = max(runs) if better == "higher" else min(runs)
    return Entry(best, len(runs), unit, better, interval=(min(runs), max(runs)) if len(runs) > 1 else None)


def missing(reason: str, unit: str = "share", better: Better | None = "higher", goal: float | None = None) -> Entry:
    """An entry for what can't be measured."""
    return Entry(None, 0, unit, better, goal, reason=reason)


def surely_better(one: Entry, other: Entry) -> bool:
    """Whether one model is ahead of another in a figure beyond what the choice of items could explain.

    From the same items: the 95 % interval of the paired difference leaves out 0. Of counts: they differ by more than
    1 %. Of repeated runs never: models run one after the other, what else the machine does changes meanwhile by any
    factor, and the runs of one model don't show it.
    """
    if one.value is None or other.value is None or (one.better is None and one.goal is None):
        return False
    if one.exact and other.exact:
        ahead = bool(one.merit(np.array([one.value]))[0] > other.merit(np.array([other.value]))[0])
        return ahead and abs(one.value - other.value) > _SAME_SIZE * max(abs(one.value), abs(other.value))
    if one.sample is not None and other.sample is not None:
        a, b = one.sample, other.sample
        if a.items.shape != b.items.shape or len(a.items) < FEWEST_ITEMS:
            return False
        test = paired_test(a.items, b.items, lambda sums: one.merit(a.statistic(sums)))
        return test.difference.low > 0
    return False


def surely_best(entries: Sequence[Entry]) -> int | None:
    """Which of several models' entries is surely better than each of the others; None if none is."""
    known = [place for place, each in enumerate(entries) if each.value is not None]
    if len(known) < 2:
        return None
    best = max(known, key=lambda place: float(entries[place].merit(np.array([entries[place].value or 0.0]))[0]))
    ahead = all(surely_better(entries[best], entries[place]) for place in known if place != best)
    return best if ahead else None


def table_items(table: ArrayLike) -> Array:
    """Values in columns as sums over items need them.

    Args:
        table: [n, G], an item's value in each group; NaN where it doesn't belong to the group.

    Returns:
        [n, 2G]: the values, 0 for NaN, and behind them 1 for each that is there.
    """
    values = np.asarray(table, dtype=np.float64)
    return np.concatenate([np.nan_to_num(values), ~np.isnan(values)], axis=1)


def in_columns(values: ArrayLike, groups: Sequence[int], count: int) -> Array:
    """A table in which each item stands in the column of its group, [n, count]; NaN elsewhere."""
    table = np.full((len(groups), count), np.nan)
    table[np.arange(len(groups)), list(groups)] = values
    return table


def group_means(sums: Array) -> Array:
    """Sums of `table_items`, [R, 2G] -> means of the groups, [R, G]; NaN for one without items."""
    half = sums.shape[1] // 2
    totals, counts = sums[:, :half], sums[:, half:]
    return np.where(counts > 0, totals / np.maximum(counts, 1), np.nan)


def mean_of_means(sums: Array) -> Array:
    """The mean of the groups' means, every group weighing alike; see `group_means`."""
    return np.asarray(np.nanmean(group_means(sums), axis=1))


def lowest_mean(sums: Array) -> Array:
    """The worst group's mean."""
    return np.asarray(np.nanmin(group_means(sums), axis=1))


def largest_gap(sums: Array) -> Array:
    """The best group's mean less the worst one's."""
    means = group_means(sums)
    return np.asarray(np.nanmax(means, axis=1) - np.nanmin(means, axis=1))


def gap_if_equal(table: ArrayLike, draws: int = 200, seed: int = 0) -> float:
    """The largest gap to expect if groups didn't matter: the mean over tables with groups exchanged at random.

    Args:
        table: As in `table_items`. Where every item has a value in every group, values are exchanged within items;
            otherwise each item has one value, and items exchange their groups.
        draws: How often they are exchanged.
        seed: Of the draws.
    """
    values, generator = np.asarray(table, dtype=np.float64), np.random.default_rng(seed)
    gaps = []
    whole = not np.isnan(values).any()
    for _ in range(draws):
        if whole:
            mixed = generator.permuted(values, axis=1)
        else:
            rows, groups = np.nonzero(~np.isnan(values))
            mixed = np.full_like(values, np.nan)
            mixed[rows, generator.permutation(groups)] = values[rows, groups]
        gaps.append(largest_gap(table_items(mixed).sum(0, keepdims=True))[0])
    return float(np.mean(gaps))


@dataclass(frozen=True)
class Choice:
    """How sure a model was of the choices of an item.

    Attributes:
        probabilities: [k], softmax of the scores that its metric compares.
        chosen: The likeliest one.
        right: The right one.
    """

    probabilities: Array
    chosen: int
    right: int

    @property
    def confidence(self) -> float:
        """The probability of the likeliest choice."""
        return float(self.probabilities[self.chosen])

    @property
    def correct(self) -> bool:
        """Whether the likeliest choice is the right one."""
        return self.chosen == self.right


def choice_of(record: Mapping[str, Any], metric: str) -> Choice | None:
    """The choices of an item's record; None if it has none, or not exactly one right one.

    Args:
        record: A record of `posttrain.bench.result.Result.items`.
        metric: How the choices' log-likelihoods are compared: as they are (``acc``), divided by characters
            (``acc_norm``) or by bytes (``acc_bytes``).
    """
    logprobs, right = record.get("logprobs"), record.get("right")
    if not isinstance(logprobs, list) or not isinstance(right, list) or len(right) != 1 or len(logprobs) < 2:
        return None
    scores = np.asarray(logprobs, dtype=np.float64)
    if metric in ("acc_norm", "acc_bytes"):
        texts = [choice.encode() if metric == "acc_bytes" else choice for choice in record["choices"]]
        scores = scores / [len(text) for text in texts]
    elif metric != "acc":
        return None
    shares = np.exp(scores - scores.max())
    return Choice(shares / shares.sum(), int(np.argmax(scores)), int(right[0]))


def answer_of(record: Mapping[str, Any], metric: str) -> Any:
    """What the model answered to an item, comparable with its answer to a changed one: the choice it took, the answer
    found in what it wrote, or whether it was right where nothing else is known."""
    for key in ("chosen", "extracted"):
        if metric in (found := record.get(key) or {}):
            return found[metric]
    return record["scores"][metric]
