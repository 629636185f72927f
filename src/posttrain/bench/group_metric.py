"""A metric over groups of items: each group gets one number, and the metric is the mean over groups.

So it is where only a whole group says something: a question of MultiRC of which every answer must be judged right (its
exact match: Wang et al., 2019, "SuperGLUE"), or a question with its changed forms, all of which a model must get right
(contrast consistency: Gardner et al., 2020, "Evaluating Models' Local Decision Boundaries via Contrast Sets"). Groups
are what is drawn anew for intervals and what is paired in comparisons, because the items of one aren't independent.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Literal, TypeVar

import numpy as np

from posttrain.bench.item import Expression
from posttrain.core.settings import Settings

Key = TypeVar("Key", bound=Hashable)

_NUMBERS: Mapping[str, Callable[[Sequence[float]], float]] = {
    "lowest": min,
    "highest": max,
    "mean": lambda values: float(np.mean(values)),
}


class GroupMetric(Settings):
    """One number a group of items."""

    of: Expression
    """What each item adds: one of the items' metrics (acc), or any expression that `item_metrics` could hold."""

    by: Expression
    """What the items of a group share with no others: a column, or an expression over the columns. Members of a task
    never share a group, and an item for which it gives none belongs to no group."""

    take: Literal["lowest", "highest", "mean"] = "lowest"
    """The group's number: its lowest item's (of right and wrong: all are right), its highest's (at least one is), or
    their mean, in which groups weigh alike whatever their size."""

    def numbers(self, added: Iterable[tuple[Key, float | None]]) -> dict[Key, float | None]:
        """The numbers of groups, in the order in which they begin; None for one in which nothing counts.

        Args:
            added: Each item's group and what it adds; None where it doesn't count.
        """
        groups: dict[Key, list[float]] = {}
        for key, value in added:
            groups.setdefault(key, []).extend([] if value is None else [value])
        return {key: float(_NUMBERS[self.take](values)) if values else None for key, values in groups.items()}
