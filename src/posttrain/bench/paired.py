"""Two models on the same items of a benchmark: how far apart they are, and whether that could be chance.

Of every metric the difference comes with the interval of a paired bootstrap (Koehn, 2004) and a two-sided p-value: by
McNemar's exact test where items are right or wrong, otherwise by approximate randomisation (Noreen, 1989), which holds
for every metric. With several tasks, Holm's correction (1979) keeps the chance of a single false alarm at the level:
`p_adjusted` of the tasks' scores. Items must be the same and asked in the same words.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from posttrain.bench.records import Record, Rows, asked, rows
from posttrain.bench.task import Task
from posttrain.core.errors import BadRequest
from posttrain.core.events import message
from posttrain.measure import signature_differences
from posttrain.ops.bootstrap import paired_statistic_test, paired_test
from posttrain.ops.significance import McNemar, mcnemar, permutation_statistic_test, permutation_test
from posttrain.ops.two_samples import holm

# Percentile intervals from fewer items than this are too narrow.
_FEWEST_ITEMS = 20
_PERMUTATIONS = 10_000
# Of metrics that are computed anew from all items in every draw.
_SLOW_PERMUTATIONS = 1000


@dataclass(frozen=True)
class Difference:
    """Two models in one metric.

    Attributes:
        value: The model's value.
        baseline: The other's.
        difference: The model's less the other's.
        interval: 95 % interval of the difference; None with fewer than 20 items.
        p_value: Two-sided: how often so large a difference would be seen if the two didn't differ.
        test: ``mcnemar`` or ``permutation``.
        discordant: For McNemar's test, how many items only the model got right, and how many only the baseline.
    """

    value: float
    baseline: float
    difference: float
    interval: tuple[float, float] | None
    p_value: float
    test: str
    discordant: tuple[int, int] | None


@dataclass(frozen=True)
class Comparison:
    """Two models in one task.

    Attributes:
        metric: The task's score.
        n: Items compared.
        differences: By metric.
        p_adjusted: The score's p-value, adjusted for the number of tasks.
        higher_is_better: Whether more of the score is better.
        measured_differently: What the two signatures differ in beside model and tokenizer, where both are known.
    """

    metric: str
    n: int
    differences: dict[str, Difference]
    p_adjusted: float
    higher_is_better: bool
    measured_differently: list[str] = field(default_factory=list)

    @property
    def score(self) -> Difference:
        """The difference in the task's score."""
        return self.differences[self.metric]

    def to_dict(self) -> dict[str, Any]:
        """The JSON form: the score's own figures, `p_adjusted`, those of further `metrics`, `measured_differently`."""
        others = {name: asdict(each) for name, each in self.differences.items() if name != self.metric}
        return {
            **asdict(self.score),
            "p_adjusted": self.p_adjusted,
            "n": self.n,
            "metrics": others,
            "measured_differently": self.measured_differently,
        }


def compare(
    tasks: Mapping[str, Task],
    records: Mapping[str, Sequence[Record]],
    baseline: Mapping[str, Sequence[Record]],
    *,
    seed: int = 0,
) -> dict[str, Comparison]:
    """Compare two models.

    Args:
        tasks: By the name it was asked for.
        records: By task the model's records. Where they and the baseline's have signatures that differ in more than the
            model, a warning says so, and the comparison too.
        baseline: The same of the other model; further tasks in it don't matter.
        seed: Of all draws, which are the same for both.

    Raises:
        BadRequest: If the two were asked different items, or in different words; names the first that differs.
    """
    found: dict[str, Comparison] = {}
    refuse_missing(tasks, baseline)
    for name, task in tasks.items():
        _refuse_other_items(name, records[name], baseline[name])
        differences = {}
        for metric in task.metrics:
            ours, theirs = rows(task, metric, records[name], baseline[name])
            if ours.counted and theirs.counted:
                differences[metric] = _difference(ours, theirs, seed)
        if task.metrics[0] not in differences:
            raise BadRequest(f"{name}: no item counts for {task.metrics[0]}.")
        higher = task.metrics[0] not in task.lower_better
        differing = _differing(records[name][0].get("signature"), baseline[name][0].get("signature"))
        if differing:
            message(
                f"{name}: the baseline was measured differently ({', '.join(differing)}), so the difference isn't the "
                "models' alone.",
                "warning",
            )
        found[name] = Comparison(task.metrics[0], len(records[name]), differences, 1.0, higher, differing)
    adjusted = holm([each.score.p_value for each in found.values()])
    return {name: replace(each, p_adjusted=p) for (name, each), p in zip(found.items(), adjusted)}


def _differing(ours: Any, theirs: Any) -> list[str]:
    """What two signatures differ in, as far as both are known; models may have tokenizers of their own."""
    if not isinstance(ours, str) or not isinstance(theirs, str):
        return []
    return [name for name in signature_differences(ours, theirs) if name != "tokenizer"]


def refuse_missing(tasks: Iterable[str], baseline: Mapping[str, Sequence[Record]]) -> None:
    """Refuse a baseline that wasn't asked every task.

    Raises:
        BadRequest: If one is missing; says which there are.
    """
    for name in tasks:
        if name not in baseline:
            raise BadRequest(
                f"The baseline has no answers to {name}.", f"It has those to {', '.join(baseline) or 'no task'}."
            )


def refuse_other_number(name: str, items: int, baseline: Sequence[Record]) -> None:
    """Refuse a baseline that was asked more or fewer items, which can be told before a model is asked.

    Raises:
        BadRequest: If the numbers differ.
    """
    if items != len(baseline):
        raise BadRequest(
            f"{name}: there are {items} items, and the baseline answered {len(baseline)}.",
            "Ask both models the same items: the same data and limit.",
        )


def _refuse_other_items(name: str, records: Sequence[Record], baseline: Sequence[Record]) -> None:
    for number, (ours, theirs) in enumerate(zip(records, baseline), start=1):
        one, other = asked(ours), asked(theirs)
        if one != other:
            key = next(key for key in {**one, **other} if one.get(key) != other.get(key))
            raise BadRequest(
                f"{name}: item {number} ({ours['origin']}) isn't the baseline's ({theirs['origin']}): "
                f"they differ in '{key}'.",
                "Ask both models the same items in the same words: the same data, limit and num_fewshot.",
            )
    if len(records) != len(baseline):
        shorter = min(len(records), len(baseline))
        first = max(records, baseline, key=len)[shorter]["origin"]
        raise BadRequest(
            f"{name}: there are {len(records)} items, and the baseline answered {len(baseline)}; "
            f"the first that only one of them has is {first}.",
            "Ask both models the same items: the same data and limit.",
        )


def _difference(ours: Rows, theirs: Rows, seed: int) -> Difference:
    a, b = ours.items, theirs.items
    value, baseline = (float(each.figure(each.items[None])[0]) for each in (ours, theirs))
    interval = None
    if min(ours.counted, theirs.counted) >= _FEWEST_ITEMS:
        if ours.of_sums is not None:
            found = paired_test(a, b, ours.of_sums, seed=seed).difference
        else:
            found = paired_statistic_test(a, b, ours.figure, seed=seed).difference
        interval = (found.low, found.high)
    exact = _right_or_wrong(ours, theirs)
    if exact is not None:
        p_value = exact.p_value
    elif ours.of_sums is not None:
        p_value = permutation_test(a, b, ours.of_sums, permutations=_PERMUTATIONS, seed=seed)
    else:
        p_value = permutation_statistic_test(a, b, ours.figure, permutations=_SLOW_PERMUTATIONS, seed=seed)
    return Difference(
        value=value,
        baseline=baseline,
        difference=value - baseline,
        interval=interval,
        p_value=p_value,
        test="permutation" if exact is None else "mcnemar",
        discordant=None if exact is None else (exact.only_first, exact.only_second),
    )


def _right_or_wrong(ours: Rows, theirs: Rows) -> McNemar | None:
    """McNemar's test where both are a mean of right and wrong over the same items."""
    a, b = ours.items, theirs.items
    if not (ours.is_mean and np.array_equal(a[:, 1], b[:, 1]) and np.isin([a, b], (0, 1)).all()):
        return None
    counted = a[:, 1] == 1
    return mcnemar(a[counted, 0], b[counted, 0])
