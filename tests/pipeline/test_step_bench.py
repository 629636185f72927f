"""The step `bench`: its result, what the report shows, and its caching."""

from __future__ import annotations

import json

import pytest

from posttrain.core.errors import BadRequest
from posttrain.models import saving
from posttrain.pipeline.run import run_recipe
from posttrain.pipeline.steps.bench import Bench

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
