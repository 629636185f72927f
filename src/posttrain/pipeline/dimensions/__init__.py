"""The contract of a dimension: one aspect of how good a model is, measured alike for all models of a scorecard.

A dimension says first what it asks (tasks, changed or not), which is the same for every model; all that the dimensions
ask of a model is asked at once, and what several of them ask only once. Then it makes figures of the answers, and may
let the model write or run. What can't be measured gets no figure but a reason.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from posttrain.bench.result import Result
from posttrain.bench.runner import Plan
from posttrain.bench.scorecard import Entry
from posttrain.core.settings import Settings
from posttrain.models.language_model import LanguageModel
from posttrain.pipeline.views import View


@dataclass(frozen=True)
class Exam:
    """What is the same for all models.

    Attributes:
        tasks: The benchmark tasks, with their data read.
        data: The folder below which data may lie.
        limit: Most items of anything that is asked; None for all.
        seed: Of everything that is drawn.
        tokens_per_pass: Most tokens read at once.
        batch_size: Most texts written at once.
    """

    tasks: list[Plan]
    data: Path | None
    limit: int | None
    seed: int
    tokens_per_pass: int
    batch_size: int


@dataclass(frozen=True)
class Candidate:
    """A model that is measured.

    Attributes:
        name: What it is called on the scorecard.
        model: A causal language model.
        exam: What it is measured by.
    """

    name: str
    model: LanguageModel
    exam: Exam


@dataclass(frozen=True)
class Asked:
    """A task and what came of it; the records of the result stand in the order of the questions.

    Attributes:
        plan: The task.
        result: The model's answers.
    """

    plan: Plan
    result: Result

    @cached_property
    def metric(self) -> str | None:
        """The metric in which each item has a score of its own, from 0 to 1 and the more the better.

        The task's score if it is such a one, else the first one of its type that is; None if there is none.
        """
        for metric in (self.result.metric, *self.plan.selection.type.measured):
            values = [item["scores"].get(metric) for item in self.result.items]
            if metric not in self.result.lower_is_better and all(
                value is not None and 0 <= value <= 1 for value in values
            ):
                return metric
        return None

    @property
    def scores(self) -> list[float]:
        """The score of each item in `metric`; none where there isn't one."""
        return [] if self.metric is None else [float(item["scores"][self.metric]) for item in self.result.items]


@dataclass(frozen=True)
class Assessment:
    """What a dimension says about a model.

    Attributes:
        entries: Its figures by name, at least one.
        how: How they were measured, in a sentence or a few.
        details: What else is worth keeping, JSON-able.
    """

    entries: dict[str, Entry]
    how: str
    details: dict[str, Any] = field(default_factory=dict)


class Dimension(Settings):
    """Base of all dimensions."""

    def plans(self, exam: Exam) -> dict[str, Plan]:
        """What it asks every model, under names of its own.

        Raises:
            BadRequest: If data or settings aren't right.
        """
        return {}

    def inputs(self, exam: Exam) -> dict[str, Any]:
        """Hashes of what it reads beside the tasks."""
        return {}

    @abstractmethod
    def assess(self, candidate: Candidate, asked: Mapping[str, Asked]) -> Assessment:
        """Measure a model.

        Args:
            candidate: The model.
            asked: What it answered to `plans`, by the same names.

        Raises:
            Failure: If the model's numbers aren't any.
        """

    def views(self, details: Mapping[str, dict[str, Any]]) -> list[View]:
        """What to show beside the figures.

        Args:
            details: Of each model's assessment, by the models' names.
        """
        return []
