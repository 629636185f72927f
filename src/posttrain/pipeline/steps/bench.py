"""bench: what the current model scores in benchmark tasks, beside what guessing would and beside another model.

With a baseline the items are paired, and each difference comes with an interval and a p-value
(`posttrain.bench.paired`). The records of the items are left for later steps, so that one of them can name this one as
its baseline.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from posttrain.bench import records
from posttrain.bench.paired import Comparison, compare, refuse_missing, refuse_other_number
from posttrain.bench.runner import Plan, Result, evaluate, prepare, write_items
from posttrain.core import files
from posttrain.models.language_model import LanguageModel
from posttrain.pipeline.quantities import show
from posttrain.pipeline.steps import Context, Outcome
from posttrain.pipeline.steps._named_tasks import NamedTasks
from posttrain.pipeline.views import View, note, table

ITEMS_FILE = "items.jsonl"


class Bench(NamedTasks):
    """Ask the current model the items of benchmark tasks."""

    reads: ClassVar[tuple[str, ...]] = ("baseline",)

    data: str | None = None
    """The folder below which the tasks' files lie; without it they are read from the hub."""

    limit: int | None = Field(None, ge=1)
    """Ask only the first so many items of each task; of a task with members, spread evenly over them."""

    num_fewshot: int | None = Field(None, ge=0)
    """Solved examples before each item; each task's own number when not given."""

    chat: bool = False
    """Ask through the model's chat template."""

    tokens_per_pass: int = Field(1024, ge=1)
    """Tokens read at once; changes speed and memory, never the scores."""

    batch_size: int = Field(16, ge=1)
    """Texts written at once; changes speed and memory, never the scores."""

    baseline: str | None = None
    """What to compare with on the same items: an earlier bench step, a file of records that such a step or `posttrain
    bench --out` wrote (.jsonl), or another model, which is asked too (`base`: the recipe's own)."""

    def plans(self) -> list[Plan]:
        """The tasks with their data read."""
        return prepare(self.tasks, self.data, self.limit, self.num_fewshot, self.chat)

    def inputs(self, context: Context) -> dict[str, Any]:
        """Hashes of items, examples and templates, and what the baseline is."""
        plans = self.plans()
        found: dict[str, Any] = {"tasks": {plan.name: plan.signature for plan in plans}}
        if self.is_recorded():
            self.refuse_other_records(plans)
            found["baseline"] = {"source": self.baseline, "hash": files.hash_file(str(self.baseline))}
        elif self.baseline is not None:
            found["baseline_model"] = context.keys.get(self.baseline)
        return found

    def is_recorded(self) -> bool:
        """Whether the baseline is a file of records."""
        return self.baseline is not None and self.baseline.endswith((".jsonl", ".jsonl.gz", ".jsonl.bz2", ".jsonl.xz"))

    def recorded(self) -> dict[str, list[records.Record]] | None:
        """The baseline's records if it is a file.

        Raises:
            BadRequest: If it can't be read or lacks a task.
        """
        if not self.is_recorded():
            return None
        return records.read(str(self.baseline))

    def refuse_other_records(self, plans: Sequence[Plan]) -> None:
        """Refuse a file of records that can't belong to the same items, before the model is asked.

        Raises:
            BadRequest: If it can't be read, lacks a task, or has another number of items.
        """
        if (baseline := self.recorded()) is None:
            return
        refuse_missing([plan.name for plan in plans], baseline)
        for plan in plans:
            refuse_other_number(plan.name, sum(len(part.questions) for part in plan.parts), baseline[plan.name])

    def compared(
        self,
        results: Mapping[str, Result],
        plans: list[Plan],
        load: Callable[[str], LanguageModel],
        seed: int,
    ) -> dict[str, Comparison]:
        """The results beside the baseline's; nothing without a baseline.

        Args:
            results: Of the current model.
            plans: What it was asked.
            load: Gives a model by name.
            seed: Of the draws that intervals and tests come from.

        Raises:
            BadRequest: If the baseline was asked other items.
        """
        if self.baseline is None:
            return {}
        baseline = self.recorded()
        if baseline is None:
            other = evaluate(load(self.baseline), plans, self.tokens_per_pass, self.batch_size)
            baseline = {name: list(each.records) for name, each in other.items()}
        tasks = {plan.name: plan.selection.task for plan in plans}
        return compare(tasks, {name: each.records for name, each in results.items()}, baseline, seed=seed)

    def run(self, context: Context) -> Outcome:
        """Ask, score, compare and tabulate."""
        plans = self.plans()
        results = evaluate(context.model, plans, self.tokens_per_pass, self.batch_size)
        write_items(results, context.folder / ITEMS_FILE)
        comparisons = self.compared(results, plans, context.load, context.seed)
        views = [table("Benchmarks", _COLUMNS, [_row(result) for result in results.values()])]
        views += [_told(result) for result in results.values()]
        if comparisons:
            views += _beside(comparisons, str(self.baseline))
        for result in results.values():
            views += _details(result)
        views += [note(f"Signature: {result.signature}", "source") for result in results.values()]
        headline = ", ".join(f"{name} {result.score:.3g}" for name, result in results.items())
        found = {name: {**result.to_dict(), "items": ITEMS_FILE} for name, result in results.items()}
        for name, comparison in comparisons.items():
            found[name]["comparison"] = comparison.to_dict()
        return Outcome(found, views, headline=headline, records=ITEMS_FILE)


# From which p-value on a difference is called one.
_LEVEL = 0.05
_COLUMNS = ["task", "metric", "score", "standard error", "95 % interval", "by chance", "items"]


def _row(result: Result) -> list[Any]:
    interval = show(list(result.interval)) if result.interval else "–"
    return [result.name, result.metric, result.score, result.stderr, interval, result.chance, result.n]


def _told(result: Result) -> View:
    """What a score says beside guessing."""
    by_chance = f"; guessing gives {show(result.chance)}" if result.chance is not None else ""
    text = f"{result.name}: {show(result.score)} on {result.n} items{by_chance}."
    if result.chance is not None and result.interval and result.interval[0] <= result.chance <= result.interval[1]:
        text += " So few items don't tell the two apart."
    return note(text)


def _beside(comparisons: Mapping[str, Comparison], baseline: str) -> list[View]:
    """The table of differences, and what each says."""
    # Of a file no more than the folder: that of an earlier step bears its name.
    baseline = "/".join(Path(baseline).parts[-2:]) if baseline.endswith(".jsonl") else baseline
    columns = ["task", "metric", "score", "baseline", "difference", "its 95 % interval", "p-value"]
    several = len(comparisons) > 1
    rows, told = [], []
    for name, each in comparisons.items():
        score = each.score
        interval = show(list(score.interval)) if score.interval else "–"
        row = [name, each.metric, score.value, score.baseline, score.difference, interval, score.p_value]
        rows.append([*row, *([each.p_adjusted] if several else [])])
        told.append(note(f"{name}: {verdict(each)}"))
        if each.measured_differently:
            differing = ", ".join(each.measured_differently)
            told.append(note(f"{name}: the two were measured differently ({differing}).", "warning"))
    return [table(f"Beside {baseline}", [*columns, *(["p-value, adjusted"] if several else [])], rows), *told]


def verdict(comparison: Comparison) -> str:
    """What a comparison says, in a sentence."""
    score = comparison.score
    counted = ""
    if score.discordant is not None:
        counted = f" Only it got {score.discordant[0]} items right, only the baseline {score.discordant[1]}."
    if comparison.p_adjusted >= _LEVEL:
        return f"no difference beyond chance (p {show(comparison.p_adjusted)}).{counted}"
    better = (score.difference > 0) == comparison.higher_is_better
    return f"{'better' if better else 'worse'} than the baseline (p {show(comparison.p_adjusted)}).{counted}"


def _details(result: Result) -> list[View]:
    """A task's further metrics, and its categories and members where it has them."""
    views: list[View] = []
    if len(result.figures) > 1:
        every = [[name, each.value, each.stderr] for name, each in result.figures.items()]
        views.append(table(f"All metrics of {result.name}", ["metric", "value", "standard error"], every))
    for title, rows in (("Categories", result.categories), ("Members", result.members)):
        if rows:
            shown = [[row["name"], row["score"], row["stderr"], row["n"]] for row in rows]
            views.append(table(f"{title} of {result.name}", ["name", "score", "standard error", "items"], shown))
    if result.macro:
        views.append(note(f"Mean over the members of {result.name}: {show(result.macro[result.metric])}."))
    if result.cut:
        views.append(note(f"{result.name}: {result.cut} prompts were too long and lost their beginning.", "warning"))
    return views
