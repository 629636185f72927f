"""Items before and after a change of words: what dimensions that perturb texts share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.bench.perturbations import Perturbation
from posttrain.bench.runner import Plan
from posttrain.bench.scorecard import Entry, answer_of, entry_of, missing
from posttrain.bench.variants import perturbed
from posttrain.core.catalog import term_of
from posttrain.pipeline.dimensions import Asked, Exam

# What a record says about how an item was asked.
_ASKED = ("prompt", "contexts", "continuation")


@dataclass(frozen=True)
class Answered:
    """An item that was asked.

    Attributes:
        score: Its score.
        answer: What the model answered.
        asked: The texts it was asked with.
    """

    score: float
    answer: Any
    asked: dict[str, Any]


def named(perturbations: Sequence[Perturbation]) -> Iterator[tuple[str, Perturbation]]:
    """Perturbations with names of their own; the second one of a kind is called KIND_2."""
    seen: dict[str, int] = {}
    for each in perturbations:
        term = term_of(each)
        seen[term] = seen.get(term, 0) + 1
        yield (term if seen[term] == 1 else f"{term}_{seen[term]}"), each


def changed_plans(exam: Exam, perturbations: Sequence[Perturbation]) -> dict[str, Plan]:
    """Each task under each perturbation, as TASK~NAME; itself where nothing changes, left out where nothing can."""
    found = {}
    for plan in exam.tasks:
        for name, perturbation in named(perturbations):
            if (changed := perturbed(plan, name, perturbation.apply, exam.seed)) is not None:
                found[f"{plan.name}~{name}"] = changed
    return found


def changeable(exam: Exam, asked: Mapping[str, Asked], perturbations: Sequence[Perturbation]) -> list[str]:
    """Names of the tasks that were asked in changed words and whose score is a share."""
    first = next(named(perturbations), ("", None))[0]
    return [plan.name for plan in exam.tasks if f"{plan.name}~{first}" in asked and asked[plan.name].metric is not None]


def answered(each: Asked) -> list[Answered]:
    """The items of a task, in order."""
    metric = each.metric or ""
    return [
        Answered(score, answer_of(item, metric), {key: item[key] for key in _ASKED if key in item})
        for score, item in zip(each.scores, each.result.items)
    ]


def drop_and_flips(name: str, before: Sequence[Answered], after: Sequence[Answered]) -> dict[str, Entry]:
    """What a change costs, and the share of answers that it turns, of the items that it changes.

    Args:
        name: Begins the names of both entries.
        before: The items as they are.
        after: The same items changed.
    """
    changed = [(old, new) for old, new in zip(before, after) if old.asked != new.asked]
    if not changed:
        reason = "it changes no item"
        drop, flips = missing(reason, "points", "lower"), missing(reason, better="lower")
    else:
        drop = entry_of([old.score - new.score for old, new in changed], unit="points", better="lower")
        flips = entry_of([float(old.answer != new.answer) for old, new in changed], better="lower")
    return {f"{name}_drop": drop, f"{name}_flips": flips}
