"""A task: one YAML file that says where its data lies, how an item is asked and what is measured.

The folder `tasks` is the registry: ``hellaswag`` is ``tasks/hellaswag.yaml``, and a path to a file of one's own does as
well. A task may have members, which differ in a word: MMLU's subjects are one file, in which ``{member}`` stands for
the subject where the data lies, and ``member`` in templates. Then ``mmlu`` is all of them, ``mmlu_anatomy`` one, and
``mmlu_stem`` the members of one of its categories. A task may also extend another one: it takes over its keys, as they
are, but for those it gives itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from posttrain.bench.group_metric import GroupMetric
from posttrain.bench.item import Expression, Template
from posttrain.bench.task_types import TaskType
from posttrain.core.catalog import block
from posttrain.core.errors import BadRequest, did_you_mean
from posttrain.core.recipe import parse
from posttrain.core.settings import Settings
from posttrain.measure import TextMetric

FOLDER = Path(__file__).parent / "tasks"


class Source(Settings):
    """One place a split may be read from."""

    files: list[str] = []
    """Where its files may lie below the data folder, the first that is there is read; * stands for anything. Compressed
    files needn't be named apart. ``builtin:NAME`` is a file that comes with posttrain."""

    hub: str | None = None
    """The set on the hub that has the same columns, owner/name or owner/name:config; read when no folder is given."""

    hub_split: str | None = None
    """Its split, where that has another name."""

    columns: list[str] | None = None
    """Names of the columns of a CSV file whose first line doesn't hold them."""

    lines: list[str] | None = None
    """In plain text: names of the lines that make up one item, in order."""

    beside: dict[str, str] = {}
    """Further columns, each in a file of its own beside the first, one value a line."""

    whole: bool = False
    """Take a JSON file as one row, whatever lists it holds, so that `each` finds what stands beside them."""

    each: dict[str, Expression] = {}
    """Makes several rows of one: names of columns with expressions that give lists. There is a row for each element of
    the first, and of the next within it, which may use what stands above."""

    keep: Expression | None = None
    """Which rows belong to the task, an expression; all of them when not given."""

    fields: dict[str, Expression] = {}
    """Columns made from the file's own, each an expression; it sees the file's columns, and those made above it."""

    @model_validator(mode="after")
    def _somewhere(self) -> Self:
        if not self.files and self.hub is None:
            raise ValueError("give `files`, `hub` or both")
        return self


class Examples(Settings):
    """Solved examples that stand before an item."""

    splits: list[str] = Field([], alias="from")
    """The splits they may come from; the first that is there. An item is never an example for itself."""

    fixed: list[dict[str, Any]] = []
    """Instead: the examples themselves, as items with the columns that the templates need."""

    draw: Literal["first", "random"] = "random"
    """The first ones of the split, the same for every item, or some drawn anew for each item."""

    number: int = Field(0, ge=0)
    """How many, unless somebody asks for another number."""

    seed: int = 1234
    """Of the draws."""

    spare: bool = False
    """Draw one more than needed and leave the last out, as lm-evaluation-harness does in tasks without a test split."""

    separator: str = "\n\n"
    """What follows each example."""

    @model_validator(mode="after")
    def _some(self) -> Self:
        if bool(self.splits) == bool(self.fixed):
            raise ValueError("give either `from` or `fixed`")
        return self


class Task(Settings):
    """What a task's file holds."""

    extends: str | None = None
    """A task, or a file beside this one, whose keys hold wherever this file doesn't give its own."""

    summary: str
    """What it asks, in a line, with its source."""

    version: str
    """Changes whenever scores may change."""

    license: str
    """The terms of the data."""

    homepage: str
    """Where the data can be had."""

    data: dict[str, list[Source]]
    """By split, the places it may be read from, in order of preference."""

    split: str
    """The split whose items are asked."""

    preamble: Template = ""
    """What stands before everything else, a template."""

    examples: Examples | None = None
    """Solved examples before each item; without this key there are none and none can be asked for."""

    type: block("task_type")  # type: ignore[valid-type]
    """How items are asked and scored."""

    item_metrics: dict[str, Expression] = {}
    """Further metrics by name: expressions that give each item's number, or none where the item doesn't count. Beside
    the item's columns they see what the type recorded (logprobs, chosen …) and its own scores (acc …)."""

    corpus_metrics: dict[str, block("measure")] = {}  # type: ignore[valid-type]
    """Further metrics by name that are no means over items: metrics of `posttrain score`, which compare what was
    predicted with what is right in all items together."""

    group_metrics: dict[str, GroupMetric] = {}
    """Further metrics by name that are means over groups of items, as in {em: {of: acc, by: question_id}}: the share of
    groups in which every item is right. With a limit the last group may be cut short."""

    counts_in: Expression | None = None
    """Where the data itself says by what an item is measured: an expression that gives the names of the metrics in
    which it counts. The name that comes first in all items is the task's score. Without it every item counts in every
    metric."""

    score: str | None = None
    """Which metric is the task's score; the type's first one when not given."""

    lower_is_better: list[str] = []
    """Metrics of which less is better."""

    chance: float | None = None
    """What guessing scores, where the type doesn't know."""

    members: dict[str, list[str]] = {}
    """The members of a task that has several, by category."""

    further_members: bool = False
    """Whether data of any other name is a member too, to be asked for by that name."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of all metrics; the first is the task's score."""
        known = (*self.type.measured, *self.item_metrics, *self.corpus_metrics, *self.group_metrics)
        return tuple(dict.fromkeys((self.score, *known) if self.score else known))

    @property
    def lower_better(self) -> frozenset[str]:
        """The metrics of which less is better."""
        of_corpus = {name for name, each in self.corpus_metrics.items() if not each.higher_is_better}
        return frozenset(self.type.perplexities | {*self.lower_is_better} | of_corpus)

    @model_validator(mode="after")
    def _metrics_known(self) -> Self:
        known = [*self.type.measured, *self.item_metrics, *self.corpus_metrics, *self.group_metrics]
        if not known:
            raise ValueError("nothing is measured: the type has no metric of its own, so name one in `corpus_metrics`")
        if twice := {name for name in known if known.count(name) > 1}:
            raise ValueError(f"two metrics are called {', '.join(sorted(twice))}")
        for name in [*([self.score] if self.score else []), *self.lower_is_better]:
            if name not in known:
                raise ValueError(f"there is no metric {name}; there are {', '.join(known)}")
        if models := [name for name, each in self.corpus_metrics.items() if not isinstance(each, TextMetric)]:
            raise ValueError(f"the metric of {', '.join(models)} compares no texts")
        return self

    @model_validator(mode="after")
    def _splits_known(self) -> Self:
        wanted = [self.split, *(self.examples.splits if self.examples else [])]
        if missing := [name for name in wanted if name not in self.data]:
            raise ValueError(f"`data` has no split {' or '.join(missing)}")
        return self


@dataclass(frozen=True)
class Selection:
    """A task or some of its members, under the name it was asked for.

    Attributes:
        name: That name.
        file: The task's file.
        task: What it holds.
        members: By category the members asked for; empty for a task without any.
    """

    name: str
    file: Path
    task: Task
    members: dict[str, list[str]]

    @property
    def type(self) -> TaskType:
        """How its items are asked."""
        found: TaskType = self.task.type
        return found


def names() -> list[str]:
    """All tasks that come with posttrain, without their members."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def find(name: str) -> Selection:
    """A task by its name, a member's or category's name, or the path of its file.

    Raises:
        BadRequest: If there is no such task or its file isn't right; names file and key.
    """
    if name.endswith((".yaml", ".yml")):
        task = read(Path(name))
        return Selection(Path(name).stem, Path(name), task, task.members)
    if name in names():
        file = FOLDER / f"{name}.yaml"
        task = read(file)
        return Selection(name, file, task, task.members)
    known = []
    for stem in names():
        task = read(FOLDER / f"{stem}.yaml")
        parts = {f"{stem}_{member}": {category: [member]} for category, all_ in task.members.items() for member in all_}
        parts |= {f"{stem}_{category}": {category: members} for category, members in task.members.items()}
        if name in parts:
            return Selection(name, FOLDER / f"{stem}.yaml", task, parts[name])
        known += list(parts)
    for stem in sorted(names(), key=len, reverse=True):
        task = read(FOLDER / f"{stem}.yaml")
        if task.further_members and name.startswith(f"{stem}_"):
            return Selection(name, FOLDER / f"{stem}.yaml", task, {"further": [name.removeprefix(f"{stem}_")]})
    raise BadRequest(f"There is no task '{name}'.", _similar(name, known))


def _similar(name: str, members: list[str]) -> str:
    """The names near a wrong one; all tasks, but not their members, when none is near."""
    near = did_you_mean(name, [*names(), *members])
    return near if near.startswith("Did") else f"Known: {', '.join(names())}. A file of your own ends in .yaml."


@cache
def read(file: Path) -> Task:
    """Read a task's file.

    Raises:
        BadRequest: If it is missing, no YAML, or a key or value isn't right; names file and key.
    """
    try:
        return Task.parse(_values(file, ()))
    except BadRequest as error:
        problem = error.problem if str(file) in error.problem else f"{file}: {error.problem}"
        raise BadRequest(problem, error.suggestion) from None


def _values(file: Path, extending: tuple[Path, ...]) -> dict[str, Any]:
    """What a file holds, over what the task holds that it extends."""
    if file in extending:
        raise BadRequest(f"{file} extends itself, by way of {', '.join(map(str, extending))}.")
    try:
        values = parse(file.read_text(encoding="utf-8"), str(file))
    except (FileNotFoundError, IsADirectoryError):
        raise BadRequest(
            f"There is no task file {file}.", "`posttrain list task` shows those that are there."
        ) from None
    except UnicodeDecodeError as error:
        raise BadRequest(f"{file} is not UTF-8 text: {error}.") from None
    base = values.get("extends")
    if not isinstance(base, str):
        return values
    path = file.parent / base if base.endswith((".yaml", ".yml")) else FOLDER / f"{base}.yaml"
    return {**_values(path, (*extending, file)), **values}
