"""`posttrain run`, and the shipped recipe behind `posttrain quickstart`."""

from __future__ import annotations

import json

import pytest

from posttrain.cli.commands import quickstart
from posttrain.pipeline import run as runs


@pytest.fixture
def recipe(model, text, questions, tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(
        f"""\
name: small
model: {model}
steps:
  - measure: {{perplexity: {{text: {text}, window: 64}}}}
  - train: {{data: {questions}, steps: 3, batch_size: 2}}
  - merge: {{}}
"""
    )
    return path


def test_json_shape_and_what_lies_in_the_folder(invoke, recipe, tmp_path):
    out = tmp_path / "run"
    result = invoke("run", recipe, "--out", out, "--json").json
    assert [step["name"] for step in result["steps"]] == ["measure", "train", "merge"]
    for step in result["steps"]:
        assert step["seconds"] > 0
        assert not step["skipped"]
    assert result["steps"][1]["result"]["loss"] > 0
    assert result["report"] == str(out / "report.html")
    assert (out / "report.html").read_text().startswith("<!")
    assert json.loads((out / "summary.json").read_text())["steps"] == result["steps"]


def test_a_second_run_skips_and_resume_needs_no_recipe(invoke, recipe, tmp_path):
    out = tmp_path / "run"
    assert invoke("run", recipe, "--out", out).code == 0
    again = invoke("run", recipe, "--out", out, "--json").json
    resumed = invoke("run", "--resume", "--out", out, "--json").json
    for summary in (again, resumed):
        assert [step["skipped"] for step in summary["steps"]] == [True, True, True]


def test_resume_without_a_folder_takes_the_newest_run(invoke, recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert invoke("run", recipe, "--set", "name=old").code == 0
    assert invoke("run", recipe, "--set", "name=new", "--set", "train.steps=1").code == 0
    assert invoke("run", "--resume", "--json").json["name"] == "new"


def test_overrides_and_the_seed(invoke, recipe, tmp_path):
    out = tmp_path / "run"
    words = ["--set", "train.steps=1", "--set", "train.adapt.lora.rank=1", "--seed", 7, "--json"]
    result = invoke("run", recipe, "--out", out, *words).json
    assert result["seed"] == 7
    assert result["steps"][1]["result"]["steps"] == 1
    assert result["steps"][1]["result"]["trainable_parameters"] == 896


def test_human_form(invoke, recipe, tmp_path):
    ran = invoke("run", recipe, "--out", tmp_path / "run")
    lines = [line.split() for line in ran.out.splitlines()]
    assert [line[0] for line in lines[1:4]] == ["measure", "train", "merge"]
    assert lines[-1] == ["Report:", str(tmp_path / "run" / "report.html")]
    assert "step train" in ran.err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "No recipe is given."),
        (["no/such.yaml"], "There is no recipe file no/such.yaml."),
        (["--resume", "--out", "nowhere"], "There is no run to resume in nowhere."),
        (["RECIPE", "--set", "train.stepz=3"], "Did you mean 'steps'?"),
        (["RECIPE", "--set", "train"], "--set expects path=value, not 'train'."),
        (["RECIPE", "--set", "model=no-such-model"], "There is no model 'no-such-model'"),
    ],
)
def test_bad_requests(invoke, recipe, tmp_path, monkeypatch, words, sentence):
    monkeypatch.chdir(tmp_path)
    words = [recipe if word == "RECIPE" else word for word in words]
    assert sentence in invoke("run", *words, "--json").refused(2)


def test_a_syntax_error_is_found_by_line(invoke, recipe):
    recipe.write_text("model: x\nsteps: [\n")
    assert f"{recipe}, line 3" in invoke("run", recipe).refused(2)


@pytest.mark.parametrize("fast", [False, True])
def test_quickstart_runs_the_shipped_recipe(invoke, monkeypatch, tmp_path, fast):
    """Which recipe, how long and where; running it is the recipe's own test."""
    asked = {}

    def run_recipe(source, **options):
        asked.update(options, source=source)
        return {"steps": [], "report": "r"}

    monkeypatch.setattr(runs, "run_recipe", run_recipe)
    words = [*(["--fast"] if fast else []), "--set", "train.steps=1", "--seed", "3", "--json"]
    assert invoke("quickstart", *words).json == {"steps": [], "report": "r"}
    assert asked == {
        "source": "quickstart",
        "out": quickstart.DEFAULT_OUT,
        "overrides": ["train.steps=1", "seed=3"],
        "resume": False,
        "fast": fast,
    }
    assert str(quickstart.DEFAULT_OUT) == "runs/quickstart"
    invoke("quickstart", "--out", tmp_path)
    assert asked["out"] == tmp_path
