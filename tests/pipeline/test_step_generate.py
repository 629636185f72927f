"""The step `generate` in a recipe: prompts from files, and searches that ask a model an earlier step left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from posttrain.core.errors import BadRequest
from posttrain.models.saving import save
from posttrain.pipeline.run import run_recipe

SHARED: dict[str, Any] = {"prompts": ["The dog", "A fox"], "chat": False, "max_new_tokens": 6, "from": "base"}


@pytest.fixture
def folder(tiny_llama: Any, tmp_path: Path) -> Path:
    """A saved tiny model, and pairs to make a judge from."""
    save(tiny_llama, tmp_path / "model")
    pairs = [{"prompt": f"Say {i}: ", "chosen": f"fox {i}", "rejected": f"dog {i}"} for i in range(8)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    return tmp_path


def judge(folder: Path, **settings: Any) -> dict[str, Any]:
    own = {"objective": "reward_model", "data": str(folder / "pairs.jsonl"), "steps": 2, "learning_rate": 0.01}
    return {"align": {"name": "judge", "adapt": {"lora": {"rank": 2}}, "batch_size": 4, **own, **settings}}


def reranked(reranker: str, model: str, **settings: Any) -> dict[str, Any]:
    search = {"best_of_n": {"n": 3, "reranker": {reranker: {"model": model}}}}
    return {"generate": {**SHARED, "search": search, **settings}}


def run(folder: Path, *steps: dict[str, Any]) -> dict[str, dict[str, Any]]:
    summary = run_recipe({"model": str(folder / "model"), "steps": list(steps)}, out=folder / "run")
    return {step["name"]: step for step in summary["steps"]}


def test_a_judge_is_named_by_its_step(folder: Path) -> None:
    """The same answers and scores as with the step's folder; done again when the judge has changed, and only then."""
    place = str(folder / "run/steps/01-judge/model")
    recipe = (judge(folder), reranked("reward", "judge"), reranked("reward", place, name="by folder"))
    found = run(folder, *recipe)
    answers = found["generate"]["result"]["generations"]
    assert answers == found["by folder"]["result"]["generations"]
    assert all(answer["score"] is not None for answer in answers)
    assert found["generate"]["inputs"]["search"]["reranker"]["model"]
    assert place not in json.dumps(found["generate"]["inputs"])
    assert all(step["skipped"] for step in run(folder, *recipe).values())
    again = run(folder, judge(folder, steps=3), *recipe[1:])
    assert not again["generate"]["skipped"]


def test_a_search_in_a_table_of_ways_finds_its_judge_too(folder: Path) -> None:
    reward = {"search": {"best_of_n": {"n": 2, "reranker": {"reward": {"model": "judge"}}}}}
    ways = {"prompts": ["The dog"], "chat": False, "max_new_tokens": 4, "samples": 2, "from": "base"}
    found = run(folder, judge(folder), {"compare_decoding": {**ways, "methods": {"plain": {}, "judged": reward}}})
    assert [row["method"] for row in found["compare_decoding"]["result"]["methods"]] == ["plain", "judged"]
    assert found["compare_decoding"]["inputs"]["searches"][1]["reranker"]["model"]


def test_the_recipes_own_model_is_called_base(folder: Path) -> None:
    by_name, by_folder = (
        run(folder, reranked("perplexity", model))["generate"]["result"]["generations"]
        for model in ("base", str(folder / "model"))
    )
    assert by_name == by_folder


def test_a_misspelt_judge_is_refused_by_name(folder: Path) -> None:
    with pytest.raises(BadRequest, match="There is no model 'jugde'"):
        run(folder, judge(folder), reranked("reward", "jugde"))


def test_prompts_of_a_file_are_known_by_their_content(folder: Path) -> None:
    prompts = folder / "prompts.txt"
    prompts.write_text("The dog\nA fox\n")
    first = run(folder, {"generate": {**SHARED, "prompts": str(prompts)}})["generate"]
    assert [answer["prompt"] for answer in first["result"]["generations"]] == ["The dog", "A fox"]
    assert run(folder, {"generate": {**SHARED, "prompts": str(prompts)}})["generate"]["skipped"]
    prompts.write_text("The dog\nA cat\n")
    assert not run(folder, {"generate": {**SHARED, "prompts": str(prompts)}})["generate"]["skipped"]
