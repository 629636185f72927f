"""The step `scorecard`: models side by side, who is marked as better, what is kept and shown, caching and refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from posttrain.bench import runner
from posttrain.bench.scorecard import entry_of, missing
from posttrain.core.errors import BadRequest
from posttrain.models.language_model import LanguageModel
from posttrain.models.saving import save
from posttrain.pipeline.dimensions import Assessment
from posttrain.pipeline.run import run_recipe
from posttrain.pipeline.single_step import single_step
from posttrain.pipeline.steps import scorecard
from posttrain.pipeline.steps.scorecard import Scorecard
from tiny_models import make_tiny_bert, make_tiny_llama

# Small enough for a second.
SMALL = {
    "accuracy": {},
    "calibration": {},
    "robustness": {"perturbations": ["case"]},
    "fairness": {},
    "bias": {},
    "toxicity": {"limit": 2, "samples": 1, "max_new_tokens": 2},
    "efficiency": {"new_tokens": 2, "prompt_tokens": 4, "repeats": 1},
}


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    """Two saved models that differ in their weights."""
    for seed in (0, 1):
        save(make_tiny_llama(seed=seed), tmp_path / f"model{seed}")
    return [str(tmp_path / f"model{seed}") for seed in (0, 1)]


def test_in_a_recipe(folders, tmp_path):
    """The base beside what was made of it, every dimension, once; a second run takes it from the first."""
    (tmp_path / "data.jsonl").write_text('{"text": "the dog sleeps"}\n' * 2)
    train = {"data": str(tmp_path / "data.jsonl"), "steps": 1, "adapt": "full", "learning_rate": 0.01}
    steps = [{"train": train}, {"scorecard": {"limit": 3, "dimensions": SMALL}}]
    recipe = {"model": folders[0], "steps": steps}
    summary = run_recipe(recipe, out=tmp_path / "run")
    step = summary["steps"][1]
    assert list(step["result"]["models"]) == ["base", "train"]
    for found in step["result"]["models"].values():
        assert list(found) == list(SMALL)
        assert found["accuracy"]["handbook_quiz"]["n"] == 3
    assert step["headline"].startswith("2 models in 7 dimensions, ")
    kinds = {view["kind"] for view in step["views"]}
    assert {"note", "table", "dots", "curve"} <= kinds
    (shown,) = [view for view in step["views"] if view.get("title") == "Scorecard"]
    assert shown["columns"] == ["figure", "base", "train", "better", "by chance", "items"]
    assert {row[0] for row in shown["rows"]} >= {"accuracy: handbook quiz", "bias: stereotype share"}
    told = [view["text"] for view in step["views"] if view["kind"] == "note"]
    assert any("fewer than 20 items" in text for text in told)
    assert sum("handbook_quiz|version:1|" in text for text in told) == 2  # a signature a model
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Side by side" not in page and "Scorecard" in page and "<svg" in page
    again = run_recipe(recipe, out=tmp_path / "run")
    assert again["steps"][1]["skipped"]
    steps[1]["scorecard"]["limit"] = 2
    assert not run_recipe(recipe, out=tmp_path / "run")["steps"][1]["skipped"]


def test_items_are_asked_once(folders, monkeypatch):
    """Four dimensions look at the same task; what all of them ask goes out in one call, each task once."""
    asked: list[str] = []
    real = runner.evaluate

    def evaluate(model: LanguageModel, plans: list[Any], *rest: Any) -> Any:
        asked.extend(plan.name for plan in plans)
        return real(model, plans, *rest)

    monkeypatch.setattr(scorecard, "evaluate", evaluate)
    dimensions = {name: SMALL[name] for name in ("accuracy", "calibration", "robustness", "fairness")}
    outcome = single_step("scorecard", {"limit": 2, "dimensions": dimensions, "models": [folders[0]]}, folders[0])
    quiz = "handbook_quiz"
    assert sorted(asked) == [quiz, f"{quiz}~by_men", f"{quiz}~by_women", f"{quiz}~case"]
    assert outcome.result["best"] == {}
    (view,) = [view for view in outcome.views if view.get("title") == "Scorecard"]
    assert view["columns"][1:-3] == ["model0"]


def test_changes_of_one_name_are_told_apart(folders):
    """Both ask `handbook_quiz~case`, one in capitals and one in small letters."""
    dimensions = {
        "robustness": {"perturbations": [{"case": {"to": "upper"}}]},
        "fairness": {"askers": {}, "swaps": [{"case": {"to": "lower"}}]},
    }
    found = single_step("scorecard", {"limit": 4, "dimensions": dimensions, "models": [folders[0]]}, folders[0])
    (figures,) = found.result["models"].values()
    assert figures["robustness"]["case_flips"]["n"] == 4
    assert figures["fairness"]["case_flips"]["n"] == 4


def test_models_are_loaded_one_after_the_other(folders, monkeypatch):
    """When a model is loaded, the one before it is gone."""
    import weakref

    from posttrain.pipeline import single_step as module

    alive: list[Any] = []
    counts: list[int] = []
    real = module.load

    def load(*arguments: Any, **place: Any) -> LanguageModel:
        counts.append(sum(reference() is not None for reference in alive))
        model: LanguageModel = real(*arguments, **place)
        alive.append(weakref.ref(model.network))
        return model

    monkeypatch.setattr(module, "load", load)
    single_step("scorecard", {"limit": 2, "dimensions": ["accuracy"], "models": folders}, folders[1])
    assert counts == [0, 0]


def board(**entries: Any) -> scorecard.Board:
    return {name: {"accuracy": Assessment({"task": entry}, "How.")} for name, entry in entries.items()}


def test_who_is_marked_as_better():
    """30 of 40 right beside 10 of 40: marked. 21 beside 20, gained on one item: not marked."""
    surely = board(a=entry_of([1.0] * 10 + [0.0] * 30), b=entry_of([1.0] * 30 + [0.0] * 10))
    assert scorecard._result(surely, {})["best"] == {"accuracy": {"task": "b"}}
    views = scorecard._views(surely, {}, [])
    assert views[0]["text"] == "Surely ahead: b in accuracy (task). 0 of 1 figures don't tell the models apart."
    (row,) = next(view for view in views if view["kind"] == "table")["rows"]
    assert row[1].startswith("0.25 (") and "★" not in row[1] and row[2].startswith("0.75 (") and row[2].endswith("★")
    hardly = board(a=entry_of([1.0] * 20 + [0.0] * 20), b=entry_of([1.0] * 21 + [0.0] * 19))
    assert scorecard._result(hardly, {})["best"] == {"accuracy": {"task": None}}
    assert "★" not in json.dumps([view for view in scorecard._views(hardly, {}, []) if view["kind"] == "table"])


def test_what_could_not_be_measured_is_said():
    views = scorecard._views(board(a=missing("nobody asked")), {}, [])
    (row,) = next(view for view in views if view["kind"] == "table")["rows"]
    assert row == ["accuracy: task", "–", "higher", "–", "–"]
    assert any(view.get("text") == "Not measured: task: nobody asked." for view in views)
    assert not [view for view in views if view["kind"] == "dots"]


def test_a_model_that_does_not_write(tmp_path):
    with pytest.raises(BadRequest, match="is not a causal language model"):
        single_step("scorecard", {"dimensions": ["accuracy"], "limit": 2, "models": ["tiny-bert"]}, make_tiny_bert())


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["runs/a/model", "runs/b/model/"], ["runs/a/model", "runs/b/model/"]),
        (["runs/a", "b/", "base"], ["a", "b", "base"]),
        (["hub:someone/small", "smollm2"], ["small", "smollm2"]),
    ],
)
def test_names_as_shown(names, shown):
    assert list(scorecard.short_names(names).values()) == shown


def test_ways_to_write_it():
    assert Scorecard.parse("boolq").tasks == ["boolq"]
    step = Scorecard.parse({"dimensions": ["accuracy", {"robustness": {"perturbations": "typos"}}]})
    assert step.tasks == ["handbook_quiz"] and len(step.dimensions) == 2
    assert len(Scorecard.parse({}).dimensions) == 7
    assert Scorecard.parse(None).models == []


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"taks": ["x"]}, "Unknown key 'scorecard.taks'. Did you mean 'tasks'"),
        ({"dimensions": ["acuracy"]}, "There is no method 'acuracy' in 'dimension'. Did you mean 'accuracy'?"),
        ({"dimensions": ["bias", "bias"]}, "bias stands there twice"),
        ({"dimensions": []}, "'scorecard.dimensions' doesn't fit"),
        ({"dimensions": [{"robustness": {"perturbations": []}}]}, "'scorecard.dimensions.robustness.perturbations'"),
        ({"dimensions": [{"robustness": {"rate": 1}}]}, "Unknown key 'scorecard.dimensions.robustness.rate'"),
    ],
)
def test_refusals(values, sentence):
    with pytest.raises(BadRequest) as raised:
        Scorecard.parse(values, "scorecard")
    assert sentence in str(raised.value)


def test_wrong_tasks_and_models_are_refused(folders):
    with pytest.raises(BadRequest, match="There is no task 'x'"):
        single_step("scorecard", {"tasks": "x"}, folders[0])
    with pytest.raises(BadRequest, match="nowhere"):
        single_step("scorecard", {"models": ["nowhere", folders[0]], "dimensions": ["bias"]}, folders[0])
