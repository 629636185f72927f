"""Efficiency: what a model costs, in bytes, seconds and watt-hours.

Speeds are those of one text at a time: new tokens a second, tokens of a prompt read a second; the best of a few runs,
with the slowest and fastest beside. Seconds an item are those of the benchmark tasks, many items read together. Energy
is measured where the machine has counters and estimated otherwise, and `how` says which. All but the sizes belong to
the machine they were taken on.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from posttrain.bench.runner import Plan
from posttrain.bench.scorecard import Entry, counted, missing, repeated
from posttrain.core import energy, runtime
from posttrain.core.files import folder_bytes
from posttrain.pipeline.dimensions import Asked, Assessment, Candidate, Dimension, Exam
from posttrain.pipeline.speed import reading_runs, writing_runs


class Efficiency(Dimension):
    """Measure size, speed and energy."""

    new_tokens: int = Field(24, ge=2)
    """Tokens written in a run."""

    prompt_tokens: int = Field(256, ge=1)
    """Tokens read in a run."""

    repeats: int = Field(3, ge=1)
    """Runs."""

    def plans(self, exam: Exam) -> dict[str, Plan]:
        """The tasks as they are: it looks at how long they took."""
        return {plan.name: plan for plan in exam.tasks}

    def assess(self, candidate: Candidate, asked: Mapping[str, Asked]) -> Assessment:
        """Count, run and meter."""
        model = candidate.model
        writing_runs(model, 2, 1)  # the first tokens of a process are slower than all others
        with energy.Meter() as meter:
            writing = writing_runs(model, self.new_tokens, self.repeats)
            spent = meter.read()
        written = self.new_tokens * self.repeats
        items = sum(each.result.n for each in asked.values())
        entries = {
            "parameters": counted(model.parameter_count(), "count"),
            "memory_bytes": counted(model.nbytes(), "bytes"),
            "disk_bytes": self._on_disk(candidate),
            "new_tokens_per_second": repeated(writing, "tokens a second", "higher"),
            "read_tokens_per_second": repeated(
                reading_runs(model, self.prompt_tokens, self.repeats), "tokens a second", "higher"
            ),
            "seconds_per_item": Entry(
                sum(each.result.seconds for each in asked.values()) / items, items, "seconds", "lower"
            ),
            "watt_hours_per_1000_tokens": Entry(spent.kwh * 1e6 / written, written, "watt-hours", "lower"),
        }
        how = (
            f"On {runtime.processor()}, {self.repeats} runs of {self.new_tokens} new tokens behind a short prompt, and "
            f"of a prompt of {self.prompt_tokens} tokens; energy of the former, {spent.how}. Intervals are the slowest "
            "and the fastest run."
        )
        return Assessment(entries, how, {"energy": spent.to_dict()})

    def _on_disk(self, candidate: Candidate) -> Entry:
        folder = candidate.model.folder
        if folder is None or not folder.is_dir():
            return missing("it isn't loaded from a folder of its own", "bytes", "lower")
        return counted(folder_bytes(folder), "bytes")
