"""scorecard: several models side by side in many dimensions, from accuracy to what they cost.

Every model is asked the same items, one model after the other. In each figure a model is called the best only where it
is ahead of each of the others by more than the choice of items explains: the 95 % interval of the paired difference
leaves out 0, with 20 items at least. Nothing is added up over dimensions, because what they are worth to one another is
for the reader to say.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from posttrain.bench.runner import Plan, evaluate, prepare
from posttrain.bench.scorecard import FEWEST_ITEMS, Entry, surely_best
from posttrain.core.catalog import blocks, term_of, terms
from posttrain.core.errors import BadRequest
from posttrain.core.events import task
from posttrain.models.language_model import LanguageModel
from posttrain.pipeline.dimensions import Asked, Assessment, Candidate, Dimension, Exam
from posttrain.pipeline.quantities import NOTHING, label, show
from posttrain.pipeline.steps import Context, Outcome
from posttrain.pipeline.steps._learning import stamp
from posttrain.pipeline.steps._named_tasks import NamedTasks
from posttrain.pipeline.views import View, dots, note, table

# Marks the best model's figure.
_BEST = "★"
_PLOTTED = ("share", "points")

Board = dict[str, dict[str, Assessment]]
"""By model and dimension what was measured."""


class Scorecard(NamedTasks):
    """Put models side by side in many dimensions."""

    tasks: list[str] = Field(["handbook_quiz"], min_length=1)
    """Benchmark tasks, as `posttrain list task` shows them, or task files of your own, which end in .yaml."""

    dimensions: blocks("dimension") = Field(  # type: ignore[valid-type]
        default_factory=lambda: list(terms("dimension")), min_length=1
    )
    """What is measured, as `posttrain list dimension` shows it."""

    models: list[str] = []
    """Names of the steps whose models are measured, in the order shown; `base` is the recipe's own. By default the base
    and the current model."""

    data: str | None = None
    """The folder below which the tasks' and dimensions' files lie; without it tasks are read from the hub."""

    limit: int | None = Field(None, ge=1)
    """Ask only the first so many items of anything."""

    num_fewshot: int | None = Field(None, ge=0)
    """Solved examples before each item; each task's own number when not given."""

    chat: bool = False
    """Ask tasks through the models' chat templates; texts that dimensions let a model continue stay plain."""

    tokens_per_pass: int = Field(1024, ge=1)
    """Tokens read at once; changes speed and memory, never the scores."""

    batch_size: int = Field(16, ge=1)
    """Texts written at once; changes speed and memory, never what is written."""

    @field_validator("dimensions")
    @classmethod
    def _each_once(cls, value: list[Dimension]) -> list[Dimension]:
        names = [term_of(each) for each in value]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"{', '.join(twice)} stands there twice")
        return value

    @cached_property
    def _prepared(self) -> dict[int, tuple[Exam, dict[str, dict[str, Plan]]]]:
        """By seed the exam and each dimension's plans; read once for `inputs` and `run`."""
        return {}

    def _exam(self, seed: int) -> tuple[Exam, dict[str, dict[str, Plan]]]:
        """What all models are asked, as a whole and by dimension."""
        if seed not in self._prepared:
            exam = Exam(
                tasks=prepare(self.tasks, self.data, self.limit, self.num_fewshot, self.chat),
                data=Path(self.data) if self.data is not None else None,
                limit=self.limit,
                seed=seed,
                tokens_per_pass=self.tokens_per_pass,
                batch_size=self.batch_size,
            )
            self._prepared[seed] = exam, {term_of(each): each.plans(exam) for each in self.dimensions}
        return self._prepared[seed]

    def _names_in(self, context: Context) -> list[str]:
        return list(dict.fromkeys(self.models or ["base", context.model_name]))

    def inputs(self, context: Context) -> dict[str, Any]:
        """Keys of the models, and hashes of everything that is asked and read."""
        exam, plans = self._exam(context.seed)
        return {
            "models": {name: stamp(name, context) for name in self._names_in(context)},
            "asked": sorted({plan.signature for asked in plans.values() for plan in asked.values()}),
            "read": {term_of(each): each.inputs(exam) for each in self.dimensions},
        }

    def run(self, context: Context) -> Outcome:
        """Measure the models one after the other, compare and show."""
        board: Board = {}
        signatures: dict[str, list[str]] = {}
        names = self._names_in(context)
        with task("Scorecard", total=len(names) * len(self.dimensions), unit="dimensions") as progress:
            for name in names:
                model = context.model if name == context.model_name else context.load(name)
                board[name] = {}
                for term, assessment, told in self._measure(name, model, context.seed):
                    board[name][term] = assessment
                    signatures[name] = told
                    progress.advance()
                del model
                gc.collect()  # a network's modules refer to one another; the next model needs the room
        result = _result(board, signatures)
        short = short_names(names)
        board = {short[name]: found for name, found in board.items()}
        signatures = {short[name]: told for name, told in signatures.items()}
        return Outcome(result, _views(board, signatures, self.dimensions), headline=_headline(board))

    def _measure(self, name: str, model: LanguageModel, seed: int) -> Iterator[tuple[str, Assessment, list[str]]]:
        """Ask a model everything at once, then let each dimension make its figures."""
        if not model.is_causal:
            raise BadRequest(f"{name} is not a causal language model.", "A scorecard is for models that write.")
        exam, plans = self._exam(seed)
        pending = list({plan.signature: plan for asked in plans.values() for plan in asked.values()}.values())
        answers: dict[str, Any] = {}
        while pending:
            batch = {plan.name: plan for plan in pending}  # of several with one name, one at a time
            pending = [plan for plan in pending if batch[plan.name] is not plan]
            for called, result in evaluate(model, list(batch.values()), self.tokens_per_pass, self.batch_size).items():
                answers[batch[called].signature] = result
        told = [answers[plan.signature].signature for plan in exam.tasks if plan.signature in answers]
        candidate = Candidate(name, model, exam)
        for each in self.dimensions:
            term = term_of(each)
            asked = {key: Asked(plan, answers[plan.signature]) for key, plan in plans[term].items()}
            yield term, each.assess(candidate, asked), told


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Models' names as they are shown: of a path the last part, where that tells the models apart."""
    last = {name: name.rstrip("/").rpartition("/")[2] or name for name in names}
    return last if len(set(last.values())) == len(last) else {name: name for name in names}


def _rows(board: Board) -> Iterator[tuple[str, str, list[Entry | None]]]:
    """Every figure that any model has: dimension, name, and each model's entry."""
    models = list(board.values())
    for term in models[0]:
        keys = dict.fromkeys(key for found in models for key in found[term].entries)
        for key in keys:
            yield term, key, [found[term].entries.get(key) for found in models]


def _best(entries: list[Entry | None]) -> int | None:
    """The place of the model that is surely best."""
    known = [(place, each) for place, each in enumerate(entries) if each is not None]
    best = surely_best([each for _, each in known])
    return None if best is None else known[best][0]


def _result(board: Board, signatures: Mapping[str, list[str]]) -> dict[str, Any]:
    names = list(board)
    best: dict[str, dict[str, str | None]] = {}
    for term, key, entries in _rows(board):
        place = _best(entries)
        best.setdefault(term, {})[key] = None if place is None else names[place]
    return {
        "models": {
            name: {
                term: {key: entry.to_dict() for key, entry in assessment.entries.items()}
                for term, assessment in found.items()
            }
            for name, found in board.items()
        },
        "best": best if len(board) > 1 else {},
        "how": {term: each.how for term, each in board[names[-1]].items()},
        "details": {name: {term: each.details for term, each in found.items()} for name, found in board.items()},
        "signatures": dict(signatures),
    }


def _headline(board: Board) -> str:
    models, dimensions, figures = len(board), len(next(iter(board.values()))), sum(1 for _ in _rows(board))
    return f"{models} model{'s' if models > 1 else ''} in {dimensions} dimensions, {figures} figures"


def _views(board: Board, signatures: Mapping[str, list[str]], dimensions: list[Dimension]) -> list[View]:
    names = list(board)
    rows = list(_rows(board))
    views = [note(_told(names, rows))]
    shown = [
        [
            f"{label(term)}: {label(key)}",
            *(_cell(entry, place == _best(entries)) for place, entry in enumerate(entries)),
            _aim(entries),
            _by_chance(entries),
            show(max(entry.n for entry in entries if entry is not None) or None),
        ]
        for term, key, entries in rows
    ]
    columns = ["figure", *names, "better", "by chance", "items"]
    views.append(table("Scorecard", columns, shown, verbatim=True))
    views += _plots(names, rows)
    for each in dimensions:
        term = term_of(each)
        views += each.views({name: found[term].details for name, found in board.items()})
    if any(
        entry is not None and entry.sample is not None and entry.n < FEWEST_ITEMS for _, _, e in rows for entry in e
    ):
        text = f"Figures from fewer than {FEWEST_ITEMS} items have no interval, and no model is called better by them."
        views.append(note(text, "warning"))
    for term in board[names[-1]]:
        views.append(note(f"{label(term).capitalize()}. {board[names[-1]][term].how}", "source"))
        reasons = dict.fromkeys(
            f"{label(key)}: {entry.reason}"
            for dimension, key, entries in rows
            for entry in entries
            if dimension == term and entry is not None and entry.reason
        )
        if reasons:
            views.append(note(f"Not measured: {'; '.join(reasons)}.", "source"))
    views.append(
        note(
            "In brackets: 95 % bootstrap intervals over items, of speeds the slowest and fastest run. Where no item "
            "shows an effect the interval is a point, and a share of up to 3 / items still possible. By chance: what "
            "guessing, a calibrated model or groups drawn at random would show. "
            f"{_BEST}: better than each other model by more than the choice of items explains (the interval of the "
            "paired difference leaves out 0; not corrected for the number of figures), or smaller by more than 1 %. "
            "Speeds get none, since models run one after the other and what else the machine does changes meanwhile.",
            "source",
        )
    )
    views += [note(f"{name}: {each}", "source") for name, told in signatures.items() for each in told]
    return views


def _told(names: list[str], rows: list[tuple[str, str, list[Entry | None]]]) -> str:
    """Which model is surely ahead in what."""
    if len(names) == 1:
        first = [
            f"{label(key)} {_with_unit(entries[0].value, entries[0].unit)}"
            for _, key, entries in rows[:3]
            if entries[0] is not None and entries[0].value is not None
        ]
        return f"{names[0]} in {len(rows)} figures: {', '.join(first)} …"
    ahead: dict[str, list[str]] = {name: [] for name in names}
    open_ = 0
    for term, key, entries in rows:
        place = _best(entries)
        if place is None:
            open_ += 1
        else:
            ahead[names[place]].append(f"{label(term)} ({label(key)})")
    parts = [f"{name} in {', '.join(found)}" for name, found in ahead.items() if found]
    return f"Surely ahead: {'; '.join(parts) or 'none'}. {open_} of {len(rows)} figures don't tell the models apart."


def figure_text(entry: Mapping[str, Any] | None) -> str:
    """A figure in its JSON form as people read it: the value with its unit, and the interval in brackets."""
    if entry is None or entry["value"] is None:
        return NOTHING
    interval = f" ({' to '.join(map(_digits, entry['interval']))})" if entry["interval"] else ""
    return _with_unit(entry["value"], entry["unit"]) + interval


def _with_unit(value: float, unit: str) -> str:
    if unit in ("bytes", "seconds"):
        return show(value, unit)
    return show(int(value)) if unit == "count" else _digits(value)


def _digits(value: float) -> str:
    """Three digits, which is more than most figures deserve."""
    return show(float(f"{value:.3g}"))


def _cell(entry: Entry | None, best: bool) -> str:
    return figure_text(None if entry is None else entry.to_dict()) + (f" {_BEST}" if best else "")


def _aim(entries: list[Entry | None]) -> str:
    known = next(entry for entry in entries if entry is not None)
    return f"near {show(known.goal)}" if known.goal is not None else known.better or NOTHING


def _by_chance(entries: list[Entry | None]) -> str:
    """What chance gives; each model's own where it depends on the model."""
    found = dict.fromkeys(show(round(e.by_chance, 3)) for e in entries if e is not None and e.by_chance is not None)
    return " · ".join(found) or NOTHING


def _plots(names: list[str], rows: list[tuple[str, str, list[Entry | None]]]) -> list[View]:
    """Every share and difference of shares as dots with intervals."""
    plotted: dict[str, dict[str, list[float | None] | None]] = {}
    for term, key, entries in rows:
        known = [each for each in entries if each is not None and each.value is not None]
        if known and known[0].unit in _PLOTTED:
            plotted[f"{label(term)}: {label(key)}"] = {
                name: None if each is None or each.value is None else [each.value, *(each.interval or (None, None))]
                for name, each in zip(names, entries)
            }
    return [dots("Shares and their differences, with 95 % intervals", "share", plotted)] if plotted else []
