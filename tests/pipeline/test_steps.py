"""The contract of a step: how a recipe entry becomes one, and what it may ask of its surroundings."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import Field, ValidationError

from posttrain.core import catalog
from posttrain.core.catalog import block, blocks
from posttrain.core.errors import BadRequest
from posttrain.core.settings import Settings
from posttrain.pipeline.steps import Context, Outcome, Step
from posttrain.pipeline.steps._learning import part_held_out
from posttrain.train.schedules.cosine import Cosine


class Plain(Step):
    """A step without a body."""

    rows: int = Field(3, ge=1)

    def run(self, context: Context) -> Outcome:
        return Outcome({"rows": self.rows})


class Bodied(Step):
    """A step whose entry is a schedule."""

    body: ClassVar[str | None] = "schedule"

    schedule: block("schedule")  # type: ignore[valid-type]
    rows: int = 3

    def run(self, context: Context) -> Outcome:
        return Outcome({})


class Several(Bodied):
    """A step whose entry is a list of processors."""

    body: ClassVar[str | None] = "process"

    schedule: Any = None
    process: blocks("process")  # type: ignore[valid-type]


@pytest.mark.parametrize(
    ("entry", "floor", "rows", "name"),
    [
        ("cosine", 0.0, 3, None),
        ({"cosine": None}, 0.0, 3, None),
        ({"cosine": {"floor": 0.5}}, 0.5, 3, None),
        ({"cosine": {"floor": 0.5}, "rows": 7, "name": "slow"}, 0.5, 7, "slow"),
        ({"schedule": {"cosine": {"floor": 0.5}}, "rows": 7}, 0.5, 7, None),
    ],
)
def test_the_body_may_stand_by_itself(entry: Any, floor: float, rows: int, name: str | None) -> None:
    step = Bodied.parse(entry, "steps[0].bodied")
    assert isinstance(step.schedule, Cosine)
    assert (step.schedule.floor, step.rows, step.name) == (floor, rows, name)


def test_a_body_of_several_methods_keeps_their_order() -> None:
    written = ["top_k", "temperature"]
    for entry in (
        {"top_k": {"k": 5}, "temperature": None},
        written,
        {"process": written},
        {"process": {"top_k": None, "temperature": None}},
    ):
        assert [catalog.term_of(each) for each in Several.parse(entry).process] == written


class Book(Settings):
    """Something that a step holds and that reads data by itself."""

    reads: ClassVar[tuple[str, ...]] = ("text",)

    text: str
    title: str = "answers"


class Library(Step):
    """A step that reads data in three places."""

    reads: ClassVar[tuple[str, ...]] = ("data",)

    data: str = "answers"
    book: Book = Book(text="answers")
    shelf: list[Any] = []

    def run(self, context: Context) -> Outcome:
        return Outcome({})


def test_what_earlier_steps_left_is_found_wherever_data_are_read() -> None:
    """In the step's own fields and in those of what it holds; other fields keep the word, other objects stay."""
    kept = Book(text="elsewhere.txt")
    step = Library(shelf=[Book(text="answers"), kept, 3])
    found = step.located({"answers": Path("a.jsonl")})
    assert (found.data, found.book.text, found.book.title) == ("a.jsonl", "a.jsonl", "answers")
    assert [getattr(each, "text", each) for each in found.shelf] == ["a.jsonl", "elsewhere.txt", 3]
    assert found.shelf[1] is kept
    assert (step.data, step.book.text, step.shelf[0].text) == ("answers",) * 3
    assert step.located({"others": Path("a.jsonl")}) is step


class Judge(Settings):
    """Another model."""

    loads: ClassVar[tuple[str, ...]] = ("model",)

    model: str
    chat: str = "judge"


class Court(Step):
    """A step with judges by name."""

    judges: dict[str, Judge] = {}
    reads: ClassVar[tuple[str, ...]] = ("record",)
    record: str = "judge"

    def run(self, context: Context) -> Outcome:
        return Outcome({})


def test_models_that_earlier_steps_left_are_found_where_one_is_loaded() -> None:
    """Names of models and of records don't mix, and a dictionary is looked into."""
    step = Court(judges={"first": Judge(model="judge"), "second": Judge(model="gpt2")})
    found = step.located({"gpt2": Path("a.jsonl")}, {"judge": "run/model"})
    assert (found.judges["first"].model, found.judges["first"].chat) == ("run/model", "judge")
    assert found.judges["second"] is step.judges["second"]
    assert (found.record, step.judges["first"].model) == ("judge", "judge")
    assert step.located({}, {"others": "run/model"}) is step


@pytest.mark.parametrize(
    ("cls", "entry", "told"),
    [
        (Bodied, {"cosin": {}}, "There is no method 'cosin' in 'schedule'. Did you mean 'cosine'?"),
        (Bodied, {"cosine": {"flor": 1}}, "Unknown key 'steps[0].it.cosine.flor'. Did you mean 'floor'?"),
        (Bodied, {"cosine": {}, "linear": {}}, "'steps[0].it' takes one method, not 'cosine' and 'linear' together."),
        (Bodied, {"rows": 4}, "'steps[0].it.schedule' is missing."),
        (Bodied, None, "'steps[0].it.schedule' is missing."),
        (Bodied, {"schedule": "cosine", "rosw": 4}, "Unknown key 'steps[0].it.rosw'. Did you mean 'rows'?"),
        (Plain, {"source": "train"}, "Unknown key 'steps[0].it.source'."),  # a recipe says `from`
        (Plain, "cosine", "'steps[0].it' expects `key: value` settings, not 'cosine'."),
        (Plain, {"rows": 0}, "'steps[0].it.rows' doesn't fit: Input should be greater than or equal to 1 (got 0)."),
    ],
)  # fmt: skip
def test_mistakes_are_told_with_their_place(cls: type[Step], entry: Any, told: str) -> None:
    with pytest.raises(BadRequest) as refusal:
        cls.parse(entry, "steps[0].it")
    assert str(refusal.value).startswith(told)


def test_the_earlier_model_is_named_as_recipes_do() -> None:
    step = Bodied.parse({"from": "first", "cosine": None})
    assert step.source == "first"
    assert step.model_dump(by_alias=True)["from"] == "first"
    assert Bodied.parse(step.model_dump(mode="json", by_alias=True)) == step


def test_a_step_is_frozen_and_reads_nothing_unless_it_says_so() -> None:
    step = Plain.parse(None)
    with pytest.raises(ValidationError, match="frozen"):
        step.rows = 4
    assert step.inputs(context([])) == {}
    with pytest.raises(TypeError, match="abstract"):
        Step()  # type: ignore[abstract]


def context(asked: list[str]) -> Context:
    """A context that notes when the model is asked for."""

    def current() -> Any:
        asked.append("current")
        return "the model"

    return Context(
        load=lambda name: asked.append(name),  # type: ignore[arg-type, return-value, func-returns-value]
        folder=Path("nowhere"),
        seed=0,
        model_name="base",
        results={},
        keys={},
        current=current,
    )


def test_the_model_is_loaded_only_when_asked_for() -> None:
    asked: list[str] = []
    there = context(asked)
    assert Plain().run(there).result == {"rows": 3}
    assert asked == []
    assert there.model == "the model"
    assert asked == ["current"]


def test_outcomes_share_no_views() -> None:
    one, other = Outcome({}), Outcome({})
    one.views.append({"kind": "note"})
    assert other.views == []


@pytest.mark.parametrize("term", catalog.terms("step"))
def test_every_step_names_a_body_that_it_has(term: str) -> None:
    """A body that is no field of methods would swallow every key of the entry and then be refused as unknown."""
    step = catalog.find("step", term)
    assert issubclass(step, Step)
    fields = {field.alias or name for name, field in step.model_fields.items()}
    if step.body is not None:  # or a method's name would be taken for a setting
        families = {m.family for m in step.model_fields[step.body].metadata if isinstance(m, catalog.FamilyOf)}
        assert not fields & {term for family in families for term in catalog.terms(family)}
        if not families:  # then the step itself must refuse what is none of its keys
            with pytest.raises(BadRequest, match="no_such_key"):
                step.parse({"no_such_key": 1}, "step")


def test_a_part_is_held_out() -> None:
    """A tenth of 25 is rounded to 2; of few records one is, unless nothing is to be; the choice is the seed's."""
    learned, held = part_held_out(25, 0.1, seed=0)
    assert len(held) == 2 and sorted(learned + held) == list(range(25))
    assert learned == sorted(learned) and held == sorted(held)
    assert part_held_out(25, 0.1, seed=0) == (learned, held) != part_held_out(25, 0.1, seed=1)
    assert len(part_held_out(3, 0.1, seed=0)[1]) == 1
    assert part_held_out(3, 0.0, seed=0) == ([0, 1, 2], [])
    assert part_held_out(1, 0.1, seed=0) == ([0], [])
