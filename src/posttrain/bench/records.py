"""Records of a model's answers to the items of tasks, as `posttrain bench --out` writes them, and figures from them.

A metric becomes rows, one an item or a group of them, from which it can be computed again on any draw of these: what
comparisons of models and of subsets of items need.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from posttrain.bench.group_metric import GroupMetric
from posttrain.bench.task import Task
from posttrain.core.errors import BadRequest
from posttrain.data.rows import rows_of
from posttrain.measure import AdditiveMetric, TextMetric

Record: TypeAlias = Mapping[str, Any]
Array = NDArray[np.float64]

# What of a record says what was asked; the rest is answer and score.
_ASKED = (
    *("member", "id", "prompt", "first", "second", "context", "contexts", "continuation", "choices"),
    *("answer", "right", "answers", "counts_in"),
)


@dataclass(frozen=True)
class Rows:
    """A metric's items.

    Attributes:
        items: [n, k], what each item adds, or each group of a metric over groups.
        figure: The metric's value on each of R draws of items, [R, n, k] to [R].
        of_sums: The same from the sums of draws, [R, k] to [R]; None for a metric that needs the items themselves.
        counted: How many of them count.
        is_mean: Whether the value is the mean of the first column over the items whose second is 1.
    """

    items: Array
    figure: Callable[[Array], Array]
    of_sums: Callable[[Array], Array] | None
    counted: int
    is_mean: bool


def read(path: Path | str) -> dict[str, list[Record]]:
    """By task the records of a file.

    Raises:
        BadRequest: If it can't be read, is empty, or holds anything else; names file and line.
    """
    path = Path(path)
    if not path.is_file():
        raise BadRequest(f"There is no file {path}.", "Write one with `posttrain bench MODEL TASK --out items.jsonl`.")
    found: dict[str, list[Record]] = {}
    for origin, row in rows_of(path, ".jsonl"):
        scores = row.get("scores")
        if not isinstance(row.get("task"), str) or not isinstance(row.get("origin"), str):
            raise BadRequest(
                f"{origin}: this is no record of a benchmark item: it has no task and origin.",
                "Give the file that `posttrain bench --out` or a bench step wrote.",
            )
        if not isinstance(scores, dict) or not all(_is_score(value) for value in scores.values()):
            raise BadRequest(f"{origin}: the record's scores must be numbers or null, not {json.dumps(scores)}.")
        if not isinstance(groups := row.get("groups", {}), dict) or not all(map(_is_share, groups.values())):
            raise BadRequest(f"{origin}: the record's groups must be objects with group and value, or null.")
        found.setdefault(row["task"], []).append(row)
    if not found:
        raise BadRequest(f"{path} holds no records.")
    return found


def _is_score(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and math.isfinite(value))


def _is_share(value: Any) -> bool:
    if not isinstance(value, dict):
        return value is None
    return isinstance(value.get("group"), str) and "value" in value and _is_score(value["value"])


def asked(record: Record) -> dict[str, Any]:
    """What of a record was asked: equal for two models that met the same item in the same words."""
    groups = {name: share and share["group"] for name, share in record.get("groups", {}).items()}
    return {key: record[key] for key in _ASKED if key in record} | ({"groups": groups} if groups else {})


def rows(task: Task, metric: str, *systems: Sequence[Record]) -> list[Rows]:
    """A metric's rows for one model or for several on the same items, with columns of the same meaning.

    Args:
        task: The task.
        metric: One of `task.metrics`.
        systems: Each model's records, at least one.

    Raises:
        BadRequest: If a record lacks what the metric needs.
    """
    if metric in task.corpus_metrics:
        return _of_corpus(metric, task.corpus_metrics[metric], systems)
    if metric in task.group_metrics:
        return [_of_groups(metric, task.group_metrics[metric], records) for records in systems]
    return [_of_means(metric, records, metric in task.type.perplexities) for records in systems]


def _of_means(metric: str, records: Sequence[Record], perplexity: bool) -> Rows:
    """Columns: the item's number, and 1 where it counts; 0 and 0 where it doesn't."""
    if lacking := [record for record in records if metric not in record["scores"]]:
        raise BadRequest(f"The record of {lacking[0]['origin']} has no score in {metric}.", "Run the benchmark again.")
    return _means([record["scores"][metric] for record in records], perplexity)


def _of_groups(name: str, metric: GroupMetric, records: Sequence[Record]) -> Rows:
    """Columns as for means, a row a group; one in which nothing counts has a row too, so that systems stay paired."""
    if lacking := [record for record in records if name not in record.get("groups", {})]:
        raise BadRequest(f"The record of {lacking[0]['origin']} has no group in {name}.", "Run the benchmark again.")
    shares = [(record.get("member"), share) for record in records if (share := record["groups"][name]) is not None]
    return _means([*metric.numbers(((member, each["group"]), each["value"]) for member, each in shares).values()])


def _means(scores: Sequence[float | None], perplexity: bool = False) -> Rows:
    counted = [(0.0, 0.0) if score is None else (score, 1.0) for score in scores]
    items = np.array(counted, dtype=np.float64).reshape(-1, 2)

    def of_sums(sums: Array) -> Array:
        with np.errstate(invalid="ignore"):  # a draw in which no item counts has no value
            means: Array = sums[:, 0] / sums[:, 1]
        return np.exp(means) if perplexity else means

    return Rows(items, lambda draws: of_sums(draws.sum(1)), of_sums, int(items[:, 1].sum()), is_mean=not perplexity)


def _of_corpus(name: str, metric: TextMetric, systems: Sequence[Sequence[Record]]) -> list[Rows]:
    systems = [[each for each in records if name in each.get("counts_in", (name,))] for records in systems]
    if not systems[0]:
        return [_means([]) for _ in systems]
    for records in systems:
        if lacking := [record for record in records if not isinstance(record.get("predicted"), str)]:
            raise BadRequest(
                f"The record of {lacking[0]['origin']} doesn't say what was predicted, which {name} needs.",
                "Run the benchmark again.",
            )
    references = [list(record["answers"]) for record in systems[0]]
    texts = [[str(record["predicted"]) for record in records] for records in systems]
    statistics = (
        metric.both_statistics(texts[0], texts[1], references)
        if len(texts) == 2
        else [metric.statistics(each, references) for each in texts]
    )

    def figure(draws: Array) -> Array:
        return np.array([metric.value(items) for items in draws])

    of_sums = metric.values if isinstance(metric, AdditiveMetric) else None
    return [Rows(each.rows, figure, of_sums, len(each.rows), is_mean=False) for each in statistics]
