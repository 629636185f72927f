"""The step `tune_decoding`: a tournament with judges whose best way is known, and what is recommended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from posttrain.core.errors import BadRequest
from posttrain.decode.presets import preset
from posttrain.models.saving import save
from posttrain.pipeline.report import render_report
from posttrain.pipeline.run import run_recipe
from posttrain.pipeline.single_step import single_step
from posttrain.pipeline.steps.tune_decoding import TuneDecoding
from tiny_models import make_tiny_llama

# The longer the better: whatever keeps on writing wins.
REWARD = """
def length(answers):
    return [len(a) for a in answers]


def same(answers):
    return [1.0] * len(answers)
"""
SPACE = {
    "long": {"search": {"sampling": {"temperature": [0.9]}}, "process": {"min_new_tokens": {"count": [2, 12]}}},
    "greedy": {"search": "greedy"},
}


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    (tmp_path / "length_rewards.py").write_text(REWARD)
    monkeypatch.syspath_prepend(str(tmp_path))
    prompts = [{"prompt": f"Say {i}: "} for i in range(48)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
    return {
        "data": str(tmp_path / "prompts.jsonl"),
        "reward": "length_rewards:length",
        "space": SPACE,
        # One token a text, so that it is easily beaten.
        "default": {"search": "greedy", "process": [{"regex": {"pattern": "[a-z]"}}]},
        "max_new_tokens": 12,
        "chat": False,
    }


def test_the_best_way_wins_and_is_saved(tiny_llama: Any, settings: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("llguidance")
    place = tmp_path / "best.yaml"
    outcome = single_step("tune_decoding", {**settings, "save": str(place)}, tiny_llama)
    found = outcome.result
    # Three points and the default: 4 on half of the 24 prompts of the tournament, 2 on all.
    assert found["rounds"] == [{"candidates": 4, "prompts": 12}, {"candidates": 2, "prompts": 24}]
    assert found["winner"] == found["recommended"] == "sampling temperature 0.9, min_new_tokens count 12"
    compared = found["comparison"]
    assert compared["prompts"] == 24 and compared["default"] == 1.0
    assert compared["difference"] == pytest.approx(compared["winner"] - compared["default"])
    assert compared["interval"][0] > 0 and compared["p_value"] < 0.05 and compared["better"]
    rows = {row["way"]: row for row in found["candidates"]}
    assert rows["default"] == {"way": "default", "value": 1.0, "prompts": 12}
    assert found["candidates"][0]["way"] == found["winner"]
    saved = preset(str(place))
    assert saved.search["sampling"]["temperature"] == 0.9
    assert saved.process == [{"min_new_tokens": {"count": 12}}]
    assert yaml.safe_load(place.read_text()) == json.loads(json.dumps(found["preset"]))
    page = render_report(
        {
            "name": "run",
            "steps": [{"name": "t", "verb": "tune_decoding", "seconds": 1, "result": found, "views": outcome.views}],
        }
    )
    assert "no candidate had seen" in page and "Tournament" in page


def test_what_is_not_better_is_not_recommended(tiny_llama: Any, settings: dict[str, Any]) -> None:
    """All ways get the same reward: whoever comes first wins, and the default stays."""
    equal = {**settings, "reward": "length_rewards:same", "default": {"search": "greedy"}}
    found = single_step("tune_decoding", equal, tiny_llama).result
    assert found["recommended"] == "default"
    assert found["comparison"] is None or not found["comparison"]["better"]
    assert set(found["preset"]["search"]) == {"greedy"}


def test_a_metric_with_references(tiny_llama: Any, settings: dict[str, Any], tmp_path: Path) -> None:
    """Judged by edits (lower is better): the references are single letters, so the shortest texts are the nearest."""
    pytest.importorskip("llguidance")
    rows = [{"prompt": f"Say {i}: ", "completion": "a"} for i in range(48)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = {
        **settings,
        "data": str(tmp_path / "pairs.jsonl"),
        "reward": None,
        "metric": {"ter": {}},
        "default": {"process": [{"min_new_tokens": {"count": 12}}]},
        "space": {"short": {"process": {"regex": {"pattern": ["a", "a[a-z]* [a-z]*"]}}}},
    }
    found = single_step("tune_decoding", given, tiny_llama).result
    assert found["higher_is_better"] is False
    assert found["winner"] == found["recommended"] == "greedy, regex pattern a"
    assert found["comparison"]["winner"] == 0 < found["comparison"]["default"]


def test_a_judge_of_the_recipe_and_the_preset_beside_the_step(
    tiny_llama: Any, settings: dict[str, Any], tmp_path: Path
) -> None:
    save(tiny_llama, tmp_path / "model")
    pairs = [{"prompt": f"Say {i}: ", "chosen": f"fox {i}", "rejected": f"dog {i}"} for i in range(8)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    judge = {"objective": "reward_model", "data": str(tmp_path / "pairs.jsonl"), "steps": 2, "name": "judge"}
    tune = {**settings, "reward": "judge", "from": "base", "limit": 8, "default": {}}
    recipe = {"model": str(tmp_path / "model"), "steps": [{"align": judge}, {"tune_decoding": tune}]}
    summary = run_recipe(recipe, out=tmp_path / "run")
    found = summary["steps"][1]
    assert found["inputs"]["reward"] == summary["steps"][0]["key"]
    assert preset(str(tmp_path / "run/steps/02-tune_decoding/preset.yaml")).use.startswith(
        "Tuned by judge on 8 prompts"
    )
    # Four prompts are too few for a test, so nothing is recommended over the default.
    assert found["result"]["recommended"] == "default"
    assert all(step["skipped"] for step in run_recipe(recipe, out=tmp_path / "run")["steps"])


def test_the_usual_space_exists(tiny_llama: Any, settings: dict[str, Any]) -> None:
    given = {**settings, "space": None, "candidates": 6, "limit": 4, "default": {}, "max_new_tokens": 3}
    found = single_step("tune_decoding", given, tiny_llama).result
    assert len(found["candidates"]) == 7


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"reward": None}, "give either `metric` or `reward`"),
        ({"metric": "rouge"}, "give either `metric` or `reward`"),
        ({"reward": None, "metric": "perplexity"}, "measures a model, not texts"),
        ({"space": {}}, "the space has no regions"),
        ({"space": {"a": {"search": {"sampling": {"temprature": [1]}}}}}, r"space\.a\.search\.sampling\.temprature"),
        ({"space": {"a": {"process": {"min_pp": None}}}}, "min_pp"),
    ],
)
def test_what_makes_no_sense_is_refused_early(settings: dict[str, Any], change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadRequest, match=sentence):
        TuneDecoding.parse({**settings, **change}, "steps[0].tune_decoding")


def test_one_question_is_too_few(tiny_llama: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(BadRequest, match="Tuning takes at least two"):
        single_step("tune_decoding", {**settings, "limit": 1}, tiny_llama)


def test_a_space_may_name_an_earlier_steps_model(tiny_llama: Any, settings: dict[str, Any], tmp_path: Path) -> None:
    """Its content counts: another model under the name is another space; and the preset names a folder."""
    save(tiny_llama, tmp_path / "model")
    judged = {"best_of_n": {"n": 2, "reranker": {"perplexity": {"model": "rounded"}}}}
    tuned = {**settings, "space": {"ranked": {"search": judged}}, "default": {}, "limit": 4, "max_new_tokens": 2}

    def run(bits: int) -> dict[str, Any]:
        rounded = {"name": "rounded", "rtn": {"bits": bits}, "max_tokens": 64, "allow_slower": True}
        tune = {"tune_decoding": {**tuned, "from": "base"}}
        recipe = {"name": "tuned", "model": str(tmp_path / "model"), "steps": [{"quantize": rounded}, tune]}
        return run_recipe(recipe, out=tmp_path / "run")["steps"][1]

    first = run(4)
    assert len(first["result"]["candidates"]) == 2 and len(first["inputs"]["space"]) == 1
    assert run(4)["skipped"] and not run(8)["skipped"]


@pytest.mark.parametrize(
    ("temperature", "told"),
    [
        ([0.5, -3], r"warm.search.sampling.temperature' doesn't fit"),
        ({"low": 1, "high": "b"}, "low and high are numbers"),
    ],
)
def test_every_value_of_a_space_is_looked_at_first(settings: dict[str, Any], temperature: Any, told: str) -> None:
    space = {"warm": {"search": {"sampling": {"temperature": temperature}}}}
    with pytest.raises(BadRequest, match=told):
        TuneDecoding.parse({**settings, "space": space}, "tune_decoding")


def test_a_preset_that_cannot_be_saved_is_told_first(settings: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="is a folder"):
        single_step("tune_decoding", {**settings, "save": str(tmp_path)}, make_tiny_llama())
