"""The step `train` with regularizers: what it reads, what it shows, and what it refuses before training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from posttrain.core import events
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


def test_records_of_an_earlier_step_are_replayed(recipe, tmp_path, monkeypatch):
    """By its name, wherever the run lies; other records are other work."""
    (tmp_path / "writing.py").write_text(
        "from posttrain.pipeline.steps import Outcome, Step\n\n"
        "class Write(Step):\n"
        "    times: int = 3\n"
        "    def run(self, context):\n"
        "        context.folder.mkdir(parents=True, exist_ok=True)\n"
        "        (context.folder / 'made.txt').write_text('The river rose. ' * self.times)\n"
        "        return Outcome({}, records='made.txt')\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path)
    recipe["steps"].insert(0, {"writing:Write": {"name": "written"}})
    recipe["steps"][1]["train"]["regularizers"] = {"replay": {"data": "written", "records": 1}}
    step = run_recipe(recipe, out=tmp_path / "run")["steps"][1]
    assert step["inputs"]["regularizers[0]"]["source"] == "written"
    assert step["result"]["history"][0]["replay_loss"] > 0
    (tmp_path / "run").rename(tmp_path / "moved")
    assert [each["skipped"] for each in run_recipe(recipe, out=tmp_path / "moved")["steps"]] == [True, True]
    recipe["steps"][0]["writing:Write"]["times"] = 4
    assert not run_recipe(recipe, out=tmp_path / "moved")["steps"][1]["skipped"]


def test_a_seed_of_its_own(recipe, tmp_path):
    """The recipe's seed written into the step changes nothing; another one gives other batches and another adapter."""
    recipe["seed"] = 5
    losses = [
        [entry["loss"] for entry in run_recipe(values, out=tmp_path / name)["steps"][0]["result"]["history"]]
        for name, values in (
            ("plain", recipe),
            ("same", recipes.apply_overrides(recipe, ["train.seed=5"])),
            ("other", recipes.apply_overrides(recipe, ["train.seed=6"])),
            ("whole", recipes.apply_overrides(recipe, ["seed=6"])),
        )
    ]
    assert losses[0] == losses[1] != losses[2] == losses[3]


def quantized(recipe: dict[str, Any]) -> dict[str, Any]:
    """The recipe on an int8 base, with a merge at the end."""
    short = {"method": {"dynamic": {}}, "max_tokens": 60, "allow_slower": True}
    text = recipe["steps"][0]["train"]["forgetting"]
    train = {key: value for key, value in recipe["steps"][0]["train"].items() if key != "regularizers"}
    return {**recipe, "steps": [{"quantize": {**short, "text": text}}, {"train": train}, {"merge": {}}]}


def test_an_adapter_on_a_quantized_base_says_that_it_stays_there(recipe, tmp_path):
    """The training says so at once and in the report; merging is refused before anything is changed."""
    said: list[str] = []

    def listen(event: events.Event) -> None:
        if event.kind == "message":
            said.append(event.name)

    with events.listen(listen), pytest.raises(BadRequest) as refused:
        run_recipe(quantized(recipe), out=tmp_path / "run")
    assert "tuned is an adapter on a quantized base" in refused.value.problem
    assert "Leave `merge` out" in refused.value.suggestion and "from: base" in refused.value.suggestion
    assert any("can't be merged" in each for each in said)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    notes = [view["text"] for view in summary["steps"][1]["views"] if view["kind"] == "note"]
    assert any("can't be merged" in each for each in notes)


def test_a_refused_merge_changes_nothing(tiny_llama, tmp_path):
    """Of an adapter on one int8 and some plain matrices none is merged."""
    from posttrain.adapt.lora import Lora
    from posttrain.pipeline.steps import Context
    from posttrain.pipeline.steps.merge import Merge
    from posttrain.quantize.methods.dynamic import Dynamic

    Dynamic(targets=["layers.1.self_attn.q_proj"]).quantize(tiny_llama)
    adapter = Lora(rank=2)
    adapter.apply(tiny_llama.network)
    tiny_llama.adapter = adapter
    before = tiny_llama.fingerprint()
    context = Context(lambda name: tiny_llama, tmp_path, 0, "tuned", {}, {}, lambda: tiny_llama)
    with pytest.raises(BadRequest, match=r"1 modules, model\.layers\.1\.self_attn\.q_proj first"):
        Merge().run(context)
    assert tiny_llama.fingerprint() == before and tiny_llama.adapter is adapter
