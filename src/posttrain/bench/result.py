"""From the scores of items to a task's figures: value, standard error, bootstrap interval; groups small and large.

The standard error is that of a mean (sample deviation over the root of n), for exp of a mean by the delta method. A
task with members gets the mean over all items (micro) with the standard error pooled over members, as
lm-evaluation-harness reports it, and the mean of the members' values (macro) beside it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from posttrain.bench.item import Item
from posttrain.bench.task_types import Reply, TaskType
from posttrain.ops.bootstrap import ratio_interval

# Percentile intervals from fewer items than this are too narrow.
_FEWEST_ITEMS = 20


@dataclass(frozen=True)
class Figure:
    """A metric's value over some items.

    Attributes:
        value: The mean, or exp of the mean for a perplexity.
        stderr: Its standard error; None for a single item.
        interval: 95 % bootstrap interval over items; None for fewer than 20.
        n: Number of items.
    """

    value: float
    stderr: float | None
    interval: tuple[float, float] | None
    n: int


@dataclass(frozen=True)
class Result:
    """What a model scored in a task.

    Attributes:
        name: The task's name.
        metric: The metric that is the score.
        figures: Every metric's figure over all items.
        macro: With several members, the mean of the members' values in each metric.
        chance: What guessing would score; None where that means nothing.
        members: With several, a row a member: its name, category, and `score`, `stderr`, `n`.
        categories: The same for each category, where there are several.
        cut: How many items lost the beginning of their prompt because the model can't read so much.
        signature: How it was made.
        seconds: How long asking took.
        items: One JSON-able record an item: what was asked, answered and scored.
        lower_is_better: The metrics of which that holds.
    """

    name: str
    metric: str
    figures: dict[str, Figure]
    macro: dict[str, float] | None
    chance: float | None
    members: list[dict[str, Any]]
    categories: list[dict[str, Any]]
    cut: int
    signature: str
    seconds: float
    items: list[dict[str, Any]] = field(repr=False)
    lower_is_better: frozenset[str]

    @property
    def score(self) -> float:
        """The value of the task's metric."""
        return self.figures[self.metric].value

    @property
    def stderr(self) -> float | None:
        """Its standard error."""
        return self.figures[self.metric].stderr

    @property
    def interval(self) -> tuple[float, float] | None:
        """Its 95 % interval."""
        return self.figures[self.metric].interval

    @property
    def n(self) -> int:
        """Number of items."""
        return self.figures[self.metric].n

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, without the items."""
        return {
            "score": self.score,
            "stderr": self.stderr,
            "n": self.n,
            "metric": self.metric,
            "interval": list(self.interval) if self.interval else None,
            "chance": self.chance,
            "higher_is_better": self.metric not in self.lower_is_better,
            "metrics": {
                name: {"value": each.value, "stderr": each.stderr, "interval": each.interval}
                for name, each in self.figures.items()
            },
            **({"macro": self.macro} if self.macro else {}),
            **({"categories": self.categories} if self.categories else {}),
            **({"members": self.members} if self.members else {}),
            "cut_prompts": self.cut,
            "seconds": self.seconds,
            "signature": self.signature,
        }


def figure(scores: Sequence[float], members: Sequence[str], perplexity: bool) -> Figure:
    """Value, standard error and interval of one metric.

    Args:
        scores: [n], one number an item; nats for a perplexity.
        members: [n], which member each item belongs to; all equal for a task without members.
        perplexity: Whether the value is exp of the mean.
    """
    values = np.asarray(scores, dtype=np.float64)
    mean = float(values.mean())
    stderr = _pooled_stderr(values, np.asarray(members))
    value = math.exp(mean) if perplexity else mean
    interval = None
    if len(values) >= _FEWEST_ITEMS:
        found = ratio_interval(values, np.ones(len(values)), np.exp if perplexity else None)
        interval = (found.low, found.high)
    # The delta method: the derivative of exp is the value itself.
    return Figure(value, stderr * value if perplexity and stderr is not None else stderr, interval, len(values))


def _pooled_stderr(values: np.ndarray[Any, Any], members: np.ndarray[Any, Any]) -> float | None:
    """Standard error of the mean from the deviations within each member; over all items where members have one each."""
    groups = [values[members == member] for member in np.unique(members)]
    free = len(values) - len(groups)
    if free == 0:
        groups, free = [values], len(values) - 1
    if free == 0:
        return None
    within = sum(float(((group - group.mean()) ** 2).sum()) for group in groups)
    return math.sqrt(within / free / len(values))


class Place(NamedTuple):
    """Which member an item belongs to, and that one's category; None in a task without members."""

    member: str | None
    category: str | None


def summarize(
    name: str,
    type_: TaskType,
    items: Sequence[Item],
    places: Sequence[Place],
    replies: Sequence[Reply],
    signature: str,
    seconds: float,
) -> Result:
    """Add up the replies to a task's items.

    Args:
        name: The task's name.
        type_: How it was asked.
        items: [n], at least one.
        places: [n], where each item belongs.
        replies: [n].
        signature: How scores were made.
        seconds: How long asking took.
    """

    def figures(chosen: Collection[Place]) -> dict[str, Figure]:
        """The metrics of the items in some places."""
        rows = [i for i, place in enumerate(places) if place in chosen]
        members = [str(places[i].member) for i in rows]
        return {
            metric: figure([replies[i].scores[metric] for i in rows], members, metric in type_.perplexities)
            for metric in type_.measured
        }

    distinct = list(dict.fromkeys(places))
    of_member = {place: figures({place}) for place in distinct}
    categories = list(dict.fromkeys(place.category for place in distinct))
    of_category = {each: figures({place for place in distinct if place.category == each}) for each in categories}
    has_members = len(distinct) > 1
    chances = [reply.chance for reply in replies if reply.chance is not None]
    return Result(
        name=name,
        metric=type_.measured[0],
        figures=figures(distinct),
        macro={
            metric: sum(found[metric].value for found in of_member.values()) / len(of_member)
            for metric in type_.measured
        }
        if has_members
        else None,
        chance=sum(chances) / len(chances) if len(chances) == len(replies) else None,
        members=[
            {**_row(place.member, found, type_), "category": place.category}
            for place, found in of_member.items()
            if has_members
        ],
        categories=[_row(category, of_category[category], type_) for category in categories if len(categories) > 1],
        cut=sum(reply.cut > 0 for reply in replies),
        signature=signature,
        seconds=seconds,
        items=list(_records(name, items, places, replies)),
        lower_is_better=type_.perplexities,
    )


def _row(name: str | None, figures: dict[str, Figure], type_: TaskType) -> dict[str, Any]:
    """A member's or category's row: its score in full, other metrics as values."""
    score, *others = type_.measured
    found = figures[score]
    return {
        "name": name,
        "score": found.value,
        "stderr": found.stderr,
        "n": found.n,
        **{metric: figures[metric].value for metric in others},
    }


def _records(
    name: str, items: Sequence[Item], places: Sequence[Place], replies: Sequence[Reply]
) -> Iterator[dict[str, Any]]:
    for item, place, reply in zip(items, places, replies):
        yield {
            "task": name,
            **({"member": place.member} if place.member is not None else {}),
            "origin": item.origin,
            **reply.record,
            "scores": reply.scores,
            "cut_tokens": reply.cut,
        }
