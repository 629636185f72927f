"""The step `train` with regularizers: what it reads, what it shows, and what it refuses before training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from posttrain.core import recipe as recipes
from posttrain.core.errors import BadRequest
from posttrain.models import saving
from posttrain.pipeline.run import run_recipe

TEXT = "The river rose in the night. In the morning the town was an island, and nobody was sorry. " * 6


@pytest.fixture
def recipe(tiny_llama, tmp_path: Path) -> dict[str, Any]:
    """A recipe that trains a saved tiny model with every kind of regularizer."""
    saving.save(tiny_llama, tmp_path / "model")
    rows = [{"prompt": f"What is {i}?", "completion": f"A number, {i}."} for i in range(12)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "general.txt").write_text(TEXT, encoding="utf-8")
    general = str(tmp_path / "general.txt")
    return {
        "name": "tiny",
        "model": str(tmp_path / "model"),
        "steps": [
            {
                "train": {
                    "name": "tuned",
                    "data": str(tmp_path / "data.jsonl"),
                    "forgetting": general,
                    "forgetting_tokens": 100,
                    "adapt": {"lora": {"rank": 4}},
                    "regularizers": [
                        {"l2_sp": {"weight": 0.02}},
                        {"kl_to_base": {"weight": 0.1}},
                        {"replay": {"data": general, "records": 1}},
                    ],
                    "steps": 4,
                    "batch_size": 4,
                    "learning_rate": 0.01,
                }
            }
        ],
    }


def test_terms_are_in_history_and_report(recipe, tmp_path):
    step = run_recipe(recipe, out=tmp_path / "run")["steps"][0]
    history = step["result"]["history"]
    terms = ("l2_sp", "kl_to_base", "replay_loss")
    assert all(entry[key] >= 0 for entry in history for key in terms)
    assert history[0]["l2_sp"] == 0
    assert history[-1]["l2_sp"] > 0
    assert history[-1]["kl_to_base"] > history[0]["kl_to_base"]
    assert step["result"]["forgetting"] == pytest.approx(
        step["result"]["general_loss_after"] - step["result"]["general_loss_before"]
    )
    shown = (tmp_path / "run" / "report.html").read_text()
    assert all(title in shown for title in ("L2 sp", "Kl to base", "Replay loss"))
    card = json.loads((tmp_path / "run" / "steps" / "01-tuned" / "model" / "posttrain.json").read_text())
    assert "kl_to_base" in json.dumps(card)


def test_other_replayed_data_is_other_work(recipe, tmp_path):
    run_recipe(recipe, out=tmp_path / "run")
    assert run_recipe(recipe, out=tmp_path / "run")["steps"][0]["skipped"]
    changed = recipes.apply_overrides(recipe, ["train.forgetting=null"])
    run_recipe(changed, out=tmp_path / "run")
    (tmp_path / "general.txt").write_text(f"{TEXT} More.", encoding="utf-8")
    assert not run_recipe(changed, out=tmp_path / "run")["steps"][0]["skipped"]


def test_a_mapping_says_the_same_as_a_list(recipe, tmp_path):
    listed = run_recipe(recipe, out=tmp_path / "list")["steps"][0]["result"]["history"]
    train = recipe["steps"][0]["train"]
    train["regularizers"] = {term: settings for block in train["regularizers"] for term, settings in block.items()}
    assert run_recipe(recipe, out=tmp_path / "mapping")["steps"][0]["result"]["history"] == listed


def test_a_base_that_is_not_kept(recipe, tmp_path):
    changed = recipes.apply_overrides(recipe, ["train.adapt=full"])
    with pytest.raises(BadRequest, match="keep_base: true"):
        run_recipe(changed, out=tmp_path / "run")
    kept = recipes.apply_overrides(recipe, ["train.adapt.full.keep_base=true"])
    assert run_recipe(kept, out=tmp_path / "kept")["steps"][0]["result"]["history"][-1]["kl_to_base"] > 0


def test_layer_wise_decay_reaches_the_optimizer(recipe, tmp_path):
    losses = [
        [entry["loss"] for entry in run_recipe(values, out=tmp_path / name)["steps"][0]["result"]["history"]]
        for name, values in (
            ("plain", recipe),
            ("decayed", recipes.apply_overrides(recipe, ["train.optimizer.layer_decay=0.5"])),
        )
    ]
    assert losses[0][0] == losses[1][0]
    assert losses[0][1:] != losses[1][1:]
