"""contamination: which items of benchmark tasks stand in training data, and what that does to a score.

It needs no model. With the records of an earlier bench step, the model's score on contaminated items stands beside that
on clean ones.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from posttrain.bench import records
from posttrain.bench.contamination import SHORTEST, Check, Report, Rule, check
from posttrain.bench.runner import Plan, prepare
from posttrain.core import files
from posttrain.core.errors import BadRequest
from posttrain.core.files import write_json
from posttrain.data.streaming import data_files
from posttrain.pipeline.quantities import show
from posttrain.pipeline.steps import Context, Outcome
from posttrain.pipeline.steps._named_tasks import NamedTasks
from posttrain.pipeline.views import View, note, samples, table

_SHOWN = 10
FOUND_FILE = "contaminated.json"


class Contamination(NamedTasks):
    """Look for the items of tasks in training data."""

    reads: ClassVar[tuple[str, ...]] = ("train", "items")

    train: str | list[str] = Field(min_length=1)
    """The training data: files and folders, .jsonl and .txt of any size, other formats one file at a time in memory."""

    data: str | None = None
    """The folder below which the tasks' files lie; without it they are read from the hub."""

    limit: int | None = Field(None, ge=1)
    """Look for only the first so many items of each task; of a task with members, spread evenly over them."""

    rule: Rule = "passage"
    """What makes an item contaminated: a `passage` of 13 words, or an `overlap` of 70 % of its 8-grams."""

    items: str | None = None
    """Records of a model's answers, to compare its scores on contaminated and clean items: an earlier bench step, or
    the file that `posttrain bench --out` wrote."""

    def plans(self) -> list[Plan]:
        """The tasks with their data read."""
        return prepare(self.tasks, self.data, self.limit, num_fewshot=0)

    def train_files(self) -> list[Path]:
        """The training data's files.

        Raises:
            BadRequest: If one isn't there or of no known format.
        """
        return data_files([self.train] if isinstance(self.train, str) else self.train)

    def inputs(self, context: Context) -> dict[str, Any]:
        """Hashes of the items, the training data and the records."""
        train = {"source": self.train, "hash": [files.hash_file(path) for path in self.train_files()]}
        found: dict[str, Any] = {"tasks": {plan.name: plan.data for plan in self.plans()}, "train": train}
        if self.items is not None:
            found["items"] = {"source": self.items, "hash": files.hash_file(self.items)}
        return found

    def check(self) -> Check:
        """Look for the items."""
        known = records.read(self.items) if self.items is not None else None
        plans, data = self.plans(), self.train_files()
        if known is not None and (missing := [plan.name for plan in plans if plan.name not in known]):
            raise BadRequest(f"{self.items} has no records of {missing[0]}.", f"It has those of {', '.join(known)}.")
        return check(plans, data, rule=self.rule, records=known)

    def run(self, context: Context) -> Outcome:
        """Look for the items, and tabulate."""
        found = self.check()
        write_json(context.folder / FOUND_FILE, {name: report.to_dict() for name, report in found.tasks.items()})
        result: dict[str, Any] = {}
        for name, report in found.tasks.items():
            whole = report.to_dict()
            result[name] = {**whole, "found": whole["found"][:_SHOWN], "all_found": FOUND_FILE}
        totals = {"files": found.files, "words": found.words}
        headline = ", ".join(f"{name} {len(each.found)} of {each.judged}" for name, each in found.tasks.items())
        return Outcome({**result, **totals}, _views(found), headline=headline)


def _views(found: Check) -> list[View]:
    columns = ["task", "contaminated", "judged", "items", "share", "its 95 % interval", "by passage", "by overlap"]
    rows = []
    for name, report in found.tasks.items():
        told = report.to_dict()
        interval = show(told["interval"]) if told["interval"] else "–"
        counts = [len(report.found), report.judged, report.items, told["share"], interval]
        rows.append([name, *counts, report.by_passage, report.by_overlap])
    views = [table("Items that stand in the training data", columns, rows)]
    views.append(note(f"{found.words:,} words in {found.files} files were read."))
    for name, report in found.tasks.items():
        views += _of_task(name, report)
    return views


def _of_task(name: str, report: Report) -> list[View]:
    views: list[View] = []
    if skipped := report.items - report.judged:
        views.append(note(f"{name}: {skipped} items have fewer than {SHORTEST} words and weren't judged."))
    if report.judged_joined:
        words = (
            f"{report.judged_joined} items have no text of {SHORTEST} words; they are found only where the data holds"
        )
        views.append(note(f"{name}: {words} all their texts in the same order."))
    if scores := report.scores:
        shown = [
            ["clean", scores.n_clean, scores.clean],
            ["contaminated", scores.n_contaminated, scores.contaminated],
        ]
        views.append(table(f"Scores in {name}", ["items", "number", scores.metric], shown))
        if scores.difference is not None:
            interval = f", 95 % interval {show(list(scores.interval))}" if scores.interval else ""
            views.append(note(f"{name}: contaminated less clean {show(scores.difference)}{interval}."))
    if report.found:
        longest = sorted(report.found, key=lambda each: each.words, reverse=True)[:_SHOWN]
        lines = [[each.origin, f"{each.words} words", each.passage, each.where] for each in longest]
        views.append(samples(f"Longest passages of {name}", ["item", "shared", "passage", "in the data"], lines))
    views.append(note(f"Signature: {report.signature}", "source"))
    return views
