"""The step `bench`: its result, what the report shows, and its caching."""

from __future__ import annotations

import json

import pytest

import posttrain
from posttrain.bench.paired import Comparison, Difference
from posttrain.bench.runner import evaluate
from posttrain.core.errors import BadRequest
from posttrain.models import saving
from posttrain.pipeline.run import run_recipe
from posttrain.pipeline.steps.bench import Bench, verdict

TASK = """\
summary: A test.
version: "1"
license: free
homepage: https://example.org
data: {test: [{files: ["{member}.jsonl"]}]}
split: test
type:
  multiple_choice:
    prompt: "{{ question }}"
    choices: ["yes", "no"]
    answer: answer
    metrics: [acc, acc_norm]
members: {first: [a, b], second: [c]}
"""


@pytest.fixture
def recipe(tiny_llama, tmp_path):
    """A recipe with two tasks, one of them with members of 8 items each."""
    saving.save(tiny_llama, tmp_path / "model")
    (tmp_path / "own.yaml").write_text(TASK)
    for name in "abc":
        rows = [json.dumps({"question": f"Is {i} {name}?", "answer": i % 2}) + "\n" for i in range(8)]
        (tmp_path / f"{name}.jsonl").write_text("".join(rows))
    step = {"tasks": [str(tmp_path / "own.yaml"), "handbook_quiz"], "data": str(tmp_path), "limit": 21}
    return {"model": str(tmp_path / "model"), "steps": [{"bench": step}]}


def test_result_report_and_cache(recipe, tmp_path):
    summary = run_recipe(recipe, out=tmp_path / "run")
    (step,) = summary["steps"]
    own = step["result"]["own"]
    assert (own["n"], own["metric"], own["chance"]) == (21, "acc", 0.5)
    assert [row["n"] for row in own["members"]] == [7, 7, 7]
    assert step["result"]["handbook_quiz"]["n"] == 21
    assert step["headline"].startswith("own 0.")
    titles = [view.get("title") for view in step["views"]]
    told = [view["text"] for view in step["views"] if view["kind"] == "note" and view["tone"] == "info"]
    assert told[0].startswith("own: 0.") and "on 21 items; guessing gives 0.5." in told[0]
    assert titles[:7] == [
        "Benchmarks",
        None,  # what each task's score says
        None,
        "All metrics of own",
        "Categories of own",
        "Members of own",
        None,  # the mean over members
    ]
    lines = [json.loads(line) for line in next((tmp_path / "run").rglob("items.jsonl")).read_text().splitlines()]
    assert [line["task"] for line in lines] == ["own"] * 21 + ["handbook_quiz"] * 21
    again = run_recipe(recipe, out=tmp_path / "run")
    assert again["steps"][0]["skipped"]
    (tmp_path / "a.jsonl").write_text('{"question": "Is it?", "answer": 0}\n')
    changed = run_recipe(recipe, out=tmp_path / "run")
    assert not changed["steps"][0]["skipped"]
    assert [row["n"] for row in changed["steps"][0]["result"]["own"]["members"]] == [1, 8, 8]


def test_baselines(recipe, tmp_path):
    """An earlier step's records, another model, and a file of records: the same model is no different from itself."""
    step = recipe["steps"][0]["bench"]
    recipe["steps"] = [
        {"bench": {**step, "name": "before"}},
        {"bench": {**step, "name": "recorded", "baseline": "before"}},
        {"bench": {**step, "name": "asked", "baseline": "base"}},
        {"bench": {**step, "name": "filed", "baseline": str(tmp_path / "items.jsonl")}},
    ]
    plans = Bench.parse(step, "bench").plans()
    tasks = {plan.name: plan.selection.task for plan in plans}
    assert list(tasks) == ["own", "handbook_quiz"]
    results = evaluate(posttrain.load(recipe["model"]), plans)
    records = [dict(record) for result in results.values() for record in result.items]
    own = [record for record in records if record["task"] == "own"]
    right = [i for i, record in enumerate(own) if record["scores"]["acc"] == 1]
    for i in right[:5]:  # the other model gets five items wrong that this one gets right
        own[i]["scores"] = {**own[i]["scores"], "acc": 0.0}
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    _, recorded, asked, filed = run_recipe(recipe, out=tmp_path / "run")["steps"]
    for same in (recorded, asked):
        found = same["result"]["own"]["comparison"]
        assert (found["difference"], found["p_value"], found["discordant"]) == (0, 1, [0, 0])
    found = filed["result"]["own"]["comparison"]
    assert found["difference"] == pytest.approx(5 / 21)
    assert (found["test"], found["discordant"]) == ("mcnemar", [5, 0])
    assert found["p_value"] == 2 / 2**5
    assert found["p_adjusted"] == 4 / 2**5
    assert set(found["metrics"]) == {"acc_norm"}
    titles = [view.get("title") for view in recorded["views"]]
    assert "Beside 01-before/items.jsonl" in titles
    told = [view["text"] for view in filed["views"] if view["kind"] == "note"]
    expected = "own: no difference beyond chance (p 0.125). Only it got 5 items right, only the baseline 0."
    assert expected in told
    again = run_recipe(recipe, out=tmp_path / "run")
    assert all(each["skipped"] for each in again["steps"])
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(record) + "\n" for record in own))
    with pytest.raises(BadRequest, match="The baseline has no answers to handbook_quiz"):
        run_recipe(recipe, out=tmp_path / "run")


@pytest.mark.parametrize(
    ("p_value", "difference", "higher", "sentence"),
    [
        (0.01, 0.1, True, "better than the baseline (p 0.01)."),
        (0.01, 0.1, False, "worse than the baseline (p 0.01)."),
        (0.01, -0.1, True, "worse than the baseline (p 0.01)."),
        (0.05, -0.1, True, "no difference beyond chance (p 0.05)."),
    ],
)
def test_verdicts(p_value, difference, higher, sentence):
    found = Difference(0.5 + difference, 0.5, difference, None, p_value, "permutation", None)
    assert verdict(Comparison("acc", 30, {"acc": found}, p_value, higher)) == sentence


def test_ways_to_write_it():
    assert Bench.parse("hellaswag").tasks == Bench.parse(["hellaswag"]).tasks == ["hellaswag"]
    assert Bench.parse({"tasks": "hellaswag", "limit": 3}).tasks == ["hellaswag"]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"task": "hellaswag"}, "Unknown key 'bench.task'. Did you mean 'tasks'"),
        ({"limit": 3}, "'bench.tasks' is missing"),
        ({"tasks": ["x"], "limti": 3}, "Unknown key 'bench.limti'. Did you mean 'limit'?"),
        ({"tasks": []}, "'bench.tasks' doesn't fit"),
    ],
)
def test_refusals(values, sentence):
    with pytest.raises(BadRequest) as raised:
        Bench.parse(values, "bench")
    assert sentence in str(raised.value)
