"""Accuracy: the score in each benchmark task, beside what guessing gets, and the mean over tasks.

Every task weighs alike in the mean, however many items it has. A task whose score is no share of its items (a
perplexity, a correlation) stands by itself and is left out of the mean.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from posttrain.bench.runner import Plan
from posttrain.bench.scorecard import Array, Better, Entry, entry_of, in_columns, mean_of_means, table_items
from posttrain.pipeline.dimensions import Asked, Assessment, Candidate, Dimension, Exam


class Accuracy(Dimension):
    """Score the benchmark tasks."""

    def plans(self, exam: Exam) -> dict[str, Plan]:
        """The tasks as they are."""
        return {plan.name: plan for plan in exam.tasks}

    def assess(self, candidate: Candidate, asked: Mapping[str, Asked]) -> Assessment:
        """An entry a task, and with several the mean."""
        entries = {name: _entry(each) for name, each in asked.items()}
        shares = [each for each in asked.values() if each.metric == each.result.metric]
        if len(shares) > 1:
            groups = [place for place, each in enumerate(shares) for _ in each.scores]
            scores = [score for each in shares for score in each.scores]
            chances = [each.result.chance for each in shares if each.result.chance is not None]
            entries["mean"] = entry_of(
                table_items(in_columns(scores, groups, len(shares))),
                mean_of_means,
                by_chance=sum(chances) / len(chances) if len(chances) == len(shares) else None,
            )
        metrics = ", ".join(f"{each.result.metric} of {name}" for name, each in asked.items())
        return Assessment(entries, f"Scores as `posttrain bench` gives them: {metrics}. Every task weighs alike.")


def _entry(asked: Asked) -> Entry:
    """A task's score; with what each item adds to it as far as it is a mean of the items'."""
    result = asked.result
    if asked.metric == result.metric:
        return entry_of(asked.scores, by_chance=result.chance)
    better: Better = "lower" if result.metric in result.lower_is_better else "higher"
    if result.metric not in asked.plan.selection.type.perplexities:
        return Entry(result.score, result.n, result.metric, better, interval=result.interval, by_chance=result.chance)
    nats = [item["scores"][result.metric] for item in result.items]

    def perplexity(sums: Array) -> Array:
        return np.asarray(np.exp(sums[:, 0] / len(nats)))

    return entry_of(nats, perplexity, unit=result.metric, better=better)
