"""The step `contamination`: data of an earlier step, scores of an earlier bench step, the report, and its caching."""

from __future__ import annotations

import json

import pytest

from posttrain.bench import task
from posttrain.core.errors import BadRequest
from posttrain.models import saving
from posttrain.pipeline.run import run_recipe
from posttrain.pipeline.steps.contamination import FOUND_FILE, Contamination

TASK = """\
summary: A test.
version: "1"
license: free
homepage: https://example.org
data: {test: [{files: ["items.jsonl"]}]}
split: test
type:
  multiple_choice: {prompt: "{{ question }}", choices: ["yes", "no"], answer: answer}
"""


def numbered(word, count):
    return " ".join(f"{word}{i}" for i in range(count))


@pytest.fixture
def folder(tiny_llama, tmp_path):
    """Twelve items, of which the first three stand in the training data."""
    saving.save(tiny_llama, tmp_path / "model")
    (tmp_path / "own.yaml").write_text(TASK)
    task.read.cache_clear()
    rows = [{"question": numbered(f"q{i}w", 14), "answer": i % 2} for i in range(12)]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "train.txt").write_text("\n\n".join(row["question"] for row in rows[:3]))
    return tmp_path


def test_in_a_recipe(folder):
    settings = {"tasks": str(folder / "own.yaml"), "data": str(folder)}
    steps = [
        {"bench": settings},
        {"contamination": {**settings, "train": str(folder / "train.txt"), "items": "bench"}},
    ]
    recipe = {"model": str(folder / "model"), "steps": steps}
    bench, step = run_recipe(recipe, out=folder / "run")["steps"]
    found = step["result"]["own"]
    assert (found["contaminated"], found["judged"], found["share"]) == (3, 12, 0.25)
    assert found["found"][2]["where"].endswith("train.txt:5")
    scores = found["scores"]
    assert (scores["n_contaminated"], scores["n_clean"]) == (3, 9)
    total = (3 * scores["contaminated"] + 9 * scores["clean"]) / 12
    assert total == pytest.approx(bench["result"]["own"]["score"])
    assert step["headline"] == "own 3 of 12"
    assert step["result"]["words"] == 42
    titles = [view.get("title") for view in step["views"]]
    assert titles == [
        "Items that stand in the training data",
        None,
        "Scores in own",
        None,
        "Longest passages of own",
        None,
    ]
    assert step["views"][-1]["text"].startswith("Signature: contamination|task:own|")
    written = json.loads((folder / "run" / "steps" / "02-contamination" / FOUND_FILE).read_text())
    assert len(written["own"]["found"]) == 3
    assert run_recipe(recipe, out=folder / "run")["steps"][1]["skipped"]
    (folder / "train.txt").write_text(numbered("q0w", 14))
    assert run_recipe(recipe, out=folder / "run")["steps"][1]["result"]["own"]["contaminated"] == 1


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"train": "nowhere.txt"}, "no file or folder nowhere.txt"),
        ({"items": "nowhere.jsonl"}, "There is no file nowhere.jsonl"),
        ({"rule": "guess"}, "'contamination.rule' doesn't fit"),
        ({"trian": "x"}, "Unknown key 'contamination.trian'. Did you mean 'train'"),
    ],
)
def test_refusals(folder, changes, sentence):
    settings = {"tasks": str(folder / "own.yaml"), "data": str(folder), "train": str(folder / "train.txt")}
    with pytest.raises(BadRequest) as refused:
        Contamination.parse({**settings, **changes}, "contamination").check()
    assert sentence in str(refused.value)


def test_records_of_other_tasks(folder):
    (folder / "other.jsonl").write_text(json.dumps({"task": "other", "origin": "a:1", "scores": {"acc": 1}}) + "\n")
    settings = {"tasks": str(folder / "own.yaml"), "data": str(folder), "train": str(folder / "train.txt")}
    with pytest.raises(BadRequest, match=r"has no records of own\. It has those of other"):
        Contamination.parse({**settings, "items": str(folder / "other.jsonl")}, "contamination").check()
