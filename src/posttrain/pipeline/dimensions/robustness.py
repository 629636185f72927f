"""Robustness: the same items with typos, in other letters, with other blanks or words; what a model loses by it.

For each perturbation: accuracy over all items, the drop on the items that it changes (before less after, paired by
item), and the share of these whose answer flips, whether right or wrong. The worst case counts an item only if it is
right as it is and under every perturbation (Liang et al., 2022, "Holistic Evaluation of Language Models", section 4.4).
Items of all tasks weigh alike. Left out: perturbations made against the model at hand (adversarial search).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from pydantic import Field

from posttrain.bench.runner import Plan
from posttrain.bench.scorecard import Entry, entry_of, missing
from posttrain.core.catalog import blocks
from posttrain.pipeline.dimensions import Asked, Assessment, Candidate, Dimension, Exam
from posttrain.pipeline.dimensions._changed import answered, changeable, changed_plans, drop_and_flips, named


class Robustness(Dimension):
    """Ask the items in changed words."""

    perturbations: blocks("perturbation") = Field(  # type: ignore[valid-type]
        default_factory=lambda: ["typos", "case", "whitespace"], min_length=1
    )
    """How texts are changed, each by itself."""

    def plans(self, exam: Exam) -> dict[str, Plan]:
        """The tasks as they are, and each under each perturbation as far as it can be changed."""
        return {plan.name: plan for plan in exam.tasks} | changed_plans(exam, self.perturbations)

    def assess(self, candidate: Candidate, asked: Mapping[str, Asked]) -> Assessment:
        """Accuracy, drop and flips under each perturbation, and the worst case."""
        able = changeable(candidate.exam, asked, self.perturbations)
        if not able:
            reason = "no task has a text that asks without also making its choices or answer"
            return Assessment({"worst_case": missing(reason)}, f"Not measured: {reason}.")
        before = [each for name in able for each in answered(asked[name])]
        worst = np.array([each.score for each in before])
        entries: dict[str, Entry] = {}
        for name, _ in named(self.perturbations):
            after = [each for task in able for each in answered(asked[f"{task}~{name}"])]
            worst = np.minimum(worst, [each.score for each in after])
            entries[name] = entry_of([each.score for each in after])
            entries |= drop_and_flips(name, before, after)
        entries["worst_case"] = entry_of(worst)
        left_out = [plan.name for plan in candidate.exam.tasks if plan.name not in able]
        how = (
            "Only what asks is perturbed, not choices, answers, examples or the words of the template around. Drop "
            "(before less after) and flips are of the items that a perturbation changes. The worst case is the share "
            "right as they are and under every perturbation."
        )
        return Assessment(entries, how + (f" Left out: {', '.join(left_out)}." if left_out else ""))
