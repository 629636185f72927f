"""From the scores of items to a task's figures: value, standard error, bootstrap interval; groups small and large.

The standard error is that of a mean (sample deviation over the root of n), for exp of a mean by the delta method. A
task with members gets the mean over all items (micro) with the standard error pooled over members, as
lm-evaluation-harness reports it, and the mean of the members' values (macro) beside it. A metric that is no mean (F1, a
correlation) is computed on all items together, and anew on draws of them: their deviation is its standard error. A
metric over groups is the mean of the groups' numbers, and n their number. Where an item doesn't count in a metric,
neither value nor n includes it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from posttrain.bench.contributions import Contribution, contribution
from posttrain.bench.item import Item
from posttrain.bench.task import Task
from posttrain.bench.task_types import Reply
from posttrain.core import events
from posttrain.core.errors import BadRequest
from posttrain.measure import TextMetric
from posttrain.ops.bootstrap import ratio_interval

# Percentile intervals from fewer items than this are too narrow.
_FEWEST_ITEMS = 20


@dataclass(frozen=True)
class Figure:
    """A metric's value over some items.

    Attributes:
        value: The mean, exp of the mean for a perplexity, or what a metric of all items together gives.
        stderr: Its standard error; None for a single item, and for fewer than 20 where it comes from a bootstrap.
        interval: 95 % bootstrap interval over items, or over groups; None for fewer than 20.
        n: Number of items, or of groups, that count.
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
        task: The task.
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
    task: Task = field(repr=False)

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
        """Number of items; of groups where the score is a metric over groups."""
        return self.figures[self.metric].n

    @property
    def records(self) -> list[dict[str, Any]]:
        """The items' records, each with the signature, as they are written and compared."""
        return [{**item, "signature": self.signature} for item in self.items]

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
                name: {"value": each.value, "stderr": each.stderr, "interval": each.interval, "n": each.n}
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


def _figure_of(task: Task, metric: str, answered: Sequence[tuple[Place, Reply, Contribution]]) -> Figure:
    """A metric's figure over some answers.

    Raises:
        BadRequest: If none of them counts in it, or it has no value for them.
    """
    answered = [each for each in answered if each[2].counts(metric)]
    if metric in task.corpus_metrics and answered:
        return corpus_figure(task.corpus_metrics[metric], [reply for _, reply, _ in answered])
    counted: list[tuple[float, str]]
    if metric in task.group_metrics:
        shares = [(place.member, share) for place, _, added in answered if (share := added.shares[metric])]
        numbers = task.group_metrics[metric].numbers(((member, each.group), each.value) for member, each in shares)
        counted = [(value, str(member)) for (member, _), value in numbers.items() if value is not None]
    else:
        scores = [(added.scores.get(metric), str(place.member)) for place, _, added in answered]
        counted = [(value, member) for value, member in scores if value is not None]
    if not counted:
        raise BadRequest("No item counts for it.")
    values, members = zip(*counted)
    return figure(values, members, metric in task.type.perplexities)


def corpus_figure(metric: TextMetric, replies: Sequence[Reply]) -> Figure:
    """The value of a metric that looks at all answers together, with bootstrap interval and standard error.

    Raises:
        BadRequest: If the type says nothing of what was predicted, or the metric has no value for these answers.
    """
    predictions = [reply.predicted for reply in replies if reply.predicted is not None]
    if len(predictions) != len(replies):
        raise BadRequest("The task type doesn't say what was predicted.", "Use `item_metrics` instead.")
    found = metric.score(predictions, [list(reply.answers) for reply in replies])
    return Figure(found.value, found.stderr, found.interval, len(replies))


def summarize(
    name: str,
    task: Task,
    items: Sequence[Item],
    places: Sequence[Place],
    replies: Sequence[Reply],
    signature: str,
    seconds: float,
) -> Result:
    """Add up the replies to a task's items.

    Args:
        name: The task's name.
        task: The task.
        items: [n], at least one.
        places: [n], where each item belongs.
        replies: [n].
        signature: How scores were made.
        seconds: How long asking took.

    Raises:
        BadRequest: If no item counts for the task's score, or a metric of the task doesn't work.
    """
    added = [contribution(task, item, reply) for item, reply in zip(items, replies)]
    missing: dict[str, str] = {}

    def figures(chosen: Collection[Place]) -> dict[str, Figure]:
        """The metrics of the items in some places, but for those that have no value there."""
        rows = [each for each in zip(places, replies, added) if each[0] in chosen]
        found = {}
        for metric in task.metrics:
            try:
                found[metric] = _figure_of(task, metric, rows)
            except BadRequest as error:
                missing[metric] = error.problem
        return found

    distinct = list(dict.fromkeys(places))
    of_member = {place: figures({place}) for place in distinct}
    categories = list(dict.fromkeys(place.category for place in distinct))
    of_category = {each: figures({place for place in distinct if place.category == each}) for each in categories}
    missing.clear()
    whole = figures(distinct)
    for metric, why in missing.items():
        if metric == task.metrics[0]:
            raise BadRequest(f"{name}: there is no {metric} for these {len(items)} items. {why}")
        if any(each.counts(metric) for each in added):
            events.message(f"{name}: there is no {metric} for these {len(items)} items. {why}", "warning")
    has_members = len(distinct) > 1
    return Result(
        name=name,
        metric=task.metrics[0],
        figures=whole,
        macro=_macro(list(of_member.values()), task.metrics) if has_members else None,
        chance=_chance(task, replies),
        members=[
            {**_row(place.member, found, task), "category": place.category}
            for place, found in of_member.items()
            if has_members
        ],
        categories=[_row(category, of_category[category], task) for category in categories if len(categories) > 1],
        cut=sum(reply.cut > 0 for reply in replies),
        signature=signature,
        seconds=seconds,
        items=list(_records(name, items, places, replies, added, bool(task.corpus_metrics))),
        lower_is_better=task.lower_better,
        task=task,
    )


def _macro(figures: Sequence[dict[str, Figure]], metrics: Sequence[str]) -> dict[str, float]:
    """The mean of the members' values in each metric, over the members that have one."""
    values = {metric: [found[metric].value for found in figures if metric in found] for metric in metrics}
    return {metric: sum(each) / len(each) for metric, each in values.items() if each}


def _chance(task: Task, replies: Sequence[Reply]) -> float | None:
    """What guessing scores: as the task says, or the type, if the score is the metric that the type means."""
    if task.chance is not None or task.metrics[:1] != task.type.measured[:1]:
        return task.chance
    chances = [reply.chance for reply in replies if reply.chance is not None]
    return sum(chances) / len(chances) if len(chances) == len(replies) else None


def _row(name: str | None, figures: dict[str, Figure], task: Task) -> dict[str, Any]:
    """A member's or category's row: its score in full, other metrics as values; None where there is none."""
    score, *others = task.metrics
    found = figures.get(score)
    return {
        "name": name,
        "score": found.value if found else None,
        "stderr": found.stderr if found else None,
        "n": found.n if found else 0,
        **{metric: figures[metric].value if metric in figures else None for metric in others},
    }


def _records(
    name: str,
    items: Sequence[Item],
    places: Sequence[Place],
    replies: Sequence[Reply],
    added: Sequence[Contribution],
    compared: bool,
) -> Iterator[dict[str, Any]]:
    """Each item's record; with what was predicted and what is right, where a metric compares these in all items."""
    for item, place, reply, each in zip(items, places, replies, added):
        shares = {metric: share and share._asdict() for metric, share in each.shares.items()}
        yield {
            "task": name,
            **({"member": place.member} if place.member is not None else {}),
            "origin": item.origin,
            **reply.record,
            **({"predicted": reply.predicted, "answers": list(reply.answers)} if compared else {}),
            **({"counts_in": list(each.counts_in)} if each.counts_in is not None else {}),
            "scores": dict(each.scores),
            **({"groups": shares} if shares else {}),
            "cut_tokens": reply.cut,
        }
