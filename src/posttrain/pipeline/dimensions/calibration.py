"""Calibration: whether a model is right as often as it is sure, over the choices of multiple choice tasks.

A choice's probability is the softmax of the choices' log-likelihoods, as the task's own metric compares them: as they
are for `acc`, per character for `acc_norm`, per byte for `acc_bytes`. Dividing makes differences small, so per
character a model looks less sure than by whole likelihoods; `scores: sum` leaves the division out. Figures are the
expected calibration error (Naeini et al., 2015; Guo et al., 2017), the Brier score (1950), and how much surer the model
is than right. With few items the error of a calibrated model isn't 0 either; it stands beside as chance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal

import numpy as np
from pydantic import Field

from posttrain.bench.runner import Plan
from posttrain.bench.scorecard import Array, choice_of, entry_of, missing
from posttrain.ops.calibration import brier_scores, calibration_terms, error_if_calibrated, reliability
from posttrain.pipeline.dimensions import Asked, Assessment, Candidate, Dimension, Exam
from posttrain.pipeline.views import View, curve

_DIVIDED = {"acc": "as they are", "acc_norm": "per character", "acc_bytes": "per byte"}


class Calibration(Dimension):
    """Compare how sure the model is with how often it is right."""

    bins: int = Field(10, ge=1)
    """Bins of confidence, of equal width."""

    scores: Literal["task", "sum"] = "task"
    """Which numbers the softmax is taken of: those the task's metric compares, or whole log-likelihoods."""

    def plans(self, exam: Exam) -> dict[str, Plan]:
        """The tasks as they are."""
        return {plan.name: plan for plan in exam.tasks}

    def assess(self, candidate: Candidate, asked: Mapping[str, Asked]) -> Assessment:
        """Error, Brier score and overconfidence, over the items of all tasks together."""
        found, divided = [], set()
        for each in asked.values():
            metric = "acc" if self.scores == "sum" or each.metric is None else each.metric
            choices = [choice for item in each.result.items if (choice := choice_of(item, metric)) is not None]
            divided |= {_DIVIDED[metric]} if choices else set()
            found += choices
        if not found:
            reason = "no task has several choices of which one is right"
            error, brier = missing(reason, "points", "lower"), missing(reason, "score", "lower")
            sure = missing(reason, "points", None, goal=0.0)
            entries = {"expected_error": error, "brier_score": brier, "overconfidence": sure}
            return Assessment(entries, f"Not measured: {reason}.")
        confidences = np.array([each.confidence for each in found])
        correct = np.array([each.correct for each in found])
        count = len(found)

        def error_of(sums: Array) -> Array:
            return np.asarray(np.abs(sums).sum(1) / count)

        entries = {
            "expected_error": entry_of(
                calibration_terms(confidences, correct, self.bins),
                error_of,
                unit="points",
                better="lower",
                by_chance=error_if_calibrated(confidences, self.bins),
            ),
            "brier_score": entry_of(
                brier_scores([each.probabilities for each in found], [each.right for each in found]),
                unit="score",
                better="lower",
                by_chance=float(np.mean([1 - 1 / len(each.probabilities) for each in found])),
            ),
            "overconfidence": entry_of(confidences - correct, unit="points", better=None, goal=0.0),
        }
        how = (
            f"Softmax of the choices' log-likelihoods ({' and '.join(sorted(divided))}) in {self.bins} bins of equal "
            "width. By chance: the error that a calibrated model would show on as many items; the Brier score of equal "
            "probabilities. Overconfidence is mean confidence less accuracy; 0 is best."
        )
        bins = [asdict(each) for each in reliability(confidences, correct, self.bins)]
        return Assessment(entries, how, {"reliability": bins})

    def views(self, details: Mapping[str, dict[str, Any]]) -> list[View]:
        """The reliability diagram."""
        series = {
            name: [(each["confidence"], each["accuracy"]) for each in found["reliability"]]
            for name, found in details.items()
            if "reliability" in found
        }
        if not series:
            return []
        diagonal = {"calibrated": [(0.0, 0.0), (1.0, 1.0)]}
        return [
            curve("Reliability: how often it is right when it is so sure", "confidence", "accuracy", diagonal | series)
        ]
