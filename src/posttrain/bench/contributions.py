"""What an item adds to each of a task's metrics: its own scores, its part in groups, and where it counts at all."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from posttrain.bench.item import Item
from posttrain.bench.task import Task
from posttrain.bench.task_types import Reply


class Share(NamedTuple):
    """An item's part in a metric over groups.

    Attributes:
        group: Which group, as JSON where it is no text.
        value: What the item adds to it; None where it doesn't count.
    """

    group: str
    value: float | None


@dataclass(frozen=True)
class Contribution:
    """What an item adds.

    Attributes:
        scores: By metric of the items its number; None where it doesn't count.
        shares: By metric over groups its part; None where it belongs to no group.
        counts_in: The metrics in which it counts, as the data says; None where it counts in all.
    """

    scores: Mapping[str, float | None]
    shares: Mapping[str, Share | None]
    counts_in: Sequence[str] | None = None

    def counts(self, metric: str) -> bool:
        """Whether the item counts in a metric, as far as the data says so."""
        return self.counts_in is None or metric in self.counts_in


def contribution(task: Task, item: Item, reply: Reply) -> Contribution:
    """What an item adds to a task's metrics.

    Args:
        task: The task.
        item: One of its items.
        reply: What came of asking it.

    Raises:
        BadRequest: If an expression of the task gives something else than it must; names task, key and item.
    """
    names = counted_in(task, item)
    seen = item.with_values({**reply.record, **reply.scores})
    own = {name: _number(seen, each, f"item_metrics.{name}") for name, each in task.item_metrics.items()}
    scores: dict[str, float | None] = {**reply.scores, **own}
    shares: dict[str, Share | None] = {}
    for name, metric in task.group_metrics.items():
        value = _number(seen.with_values(own), metric.of, f"group_metrics.{name}.of")
        group = item.value(metric.by, f"group_metrics.{name}.by")
        shares[name] = None if group is None else Share(_text(group), value)
    if names is not None:
        scores = {name: value if name in names else None for name, value in scores.items()}
        shares = {name: share if name in names else None for name, share in shares.items()}
    return Contribution(scores, shares, names)


def counted_in(task: Task, item: Item) -> list[str] | None:
    """The metrics in which an item counts, the first one first; None where the task doesn't ask the data.

    Raises:
        BadRequest: If the task's expression gives no list of names of its metrics.
    """
    if task.counts_in is None:
        return None
    found = item.value(task.counts_in, "counts_in")
    if not isinstance(found, (list, tuple)) or not found or not all(name in task.metrics for name in found):
        known = ", ".join(task.metrics)
        raise item.problem("counts_in", f"it must give a list of the task's metrics ({known}), not {found!r}")
    return list(found)


def _number(item: Item, expression: str, key: str) -> float | None:
    found = item.value(expression, key)
    if found is not None and not (isinstance(found, (int, float)) and math.isfinite(found)):
        raise item.problem(key, f"it must give a number or none, not {found!r}")
    return None if found is None else float(found)


def _text(group: Any) -> str:
    return group if isinstance(group, str) else json.dumps(group, ensure_ascii=False, sort_keys=True, default=str)
