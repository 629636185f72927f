"""bench: what the current model scores in benchmark tasks, beside what guessing would."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field, ValidationInfo, field_validator

from posttrain.bench.runner import Plan, Result, evaluate, prepare, write_items
from posttrain.core.errors import BadRequest, did_you_mean
from posttrain.core.settings import place_of
from posttrain.pipeline.quantities import show
from posttrain.pipeline.steps import Context, Outcome, Step
from posttrain.pipeline.views import View, note, table

ITEMS_FILE = "items.jsonl"


class Bench(Step):
    """Ask the current model the items of benchmark tasks."""

    body: ClassVar[str | None] = "tasks"

    tasks: list[str] = Field(min_length=1)
    """Names of tasks, as `posttrain list task` shows them, of their members or categories (mmlu_anatomy, mmlu_stem), or
    task files of your own, which end in .yaml."""

    data: str | None = None
    """The folder below which the tasks' files lie; without it they are read from the hub."""

    limit: int | None = Field(None, ge=1)
    """Ask only the first so many items of each task; of a task with members, spread evenly over them."""

    num_fewshot: int | None = Field(None, ge=0)
    """Solved examples before each item; each task's own number when not given."""

    tokens_per_pass: int = Field(1024, ge=1)
    """Tokens read at once; changes speed and memory, never the scores."""

    batch_size: int = Field(16, ge=1)
    """Texts written at once; changes speed and memory, never the scores."""

    @field_validator("tasks", mode="before")
    @classmethod
    def _names(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, dict):  # keys that are none of the step's, see Step.parse
            key = str(next(iter(value), ""))
            place = f"{place_of(info)}.{key}".strip(".")
            raise BadRequest(f"Unknown key '{place}'.", did_you_mean(key, cls.model_fields))
        return [value] if isinstance(value, str) else value

    def plans(self) -> list[Plan]:
        """The tasks with their data read."""
        return prepare(self.tasks, self.data, self.limit, self.num_fewshot)

    def inputs(self, context: Context) -> dict[str, Any]:
        """Hashes of items, examples and templates."""
        return {"tasks": {plan.name: plan.signature for plan in self.plans()}}

    def run(self, context: Context) -> Outcome:
        """Ask, score and tabulate."""
        results = evaluate(context.model, self.plans(), self.tokens_per_pass, self.batch_size)
        write_items(results, context.folder / ITEMS_FILE)
        views = [table("Benchmarks", _COLUMNS, [_row(result) for result in results.values()])]
        views += [_told(result) for result in results.values()]
        for result in results.values():
            views += _details(result)
        views += [note(f"Signature: {result.signature}", "source") for result in results.values()]
        headline = ", ".join(f"{name} {result.score:.3g}" for name, result in results.items())
        found = {name: {**result.to_dict(), "items": ITEMS_FILE} for name, result in results.items()}
        return Outcome(found, views, headline=headline)


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
