"""Running recipes on a tiny model: order, caching, resuming after kill -9, errors that come before any work."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from posttrain.core import recipe as recipes
from posttrain.core.errors import BadRequest
from posttrain.models import saving
from posttrain.models.sources import load
from posttrain.pipeline.run import base_key, parse_steps, read_recipe, run_recipe, shipped_recipes
from posttrain.pipeline.single_step import single_step

TEXT = "The river rose in the night. In the morning the town was an island, and nobody was sorry. " * 6


@pytest.fixture
def folder(tiny_llama, tmp_path: Path) -> Path:
    """A saved tiny model, a training set, held-out data and a text."""
    saving.save(tiny_llama, tmp_path / "model")
    rows = [{"prompt": f"What is {i}?", "completion": f"A number, {i}."} for i in range(12)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    return tmp_path


def _recipe(folder: Path, steps: int = 6) -> dict[str, Any]:
    text = str(folder / "text.txt")
    perplexity = {"text": text, "window": 64, "stride": 32}
    return {
        "name": "tiny",
        "model": str(folder / "model"),
        "seed": 3,
        "steps": [
            {"measure": {"name": "before", "perplexity": perplexity}},
            {"audit": {"data": str(folder / "data.jsonl"), "chat": True}},
            {
                "train": {
                    "name": "tuned",
                    "data": str(folder / "data.jsonl"),
                    "validation": str(folder / "data.jsonl"),
                    "forgetting": text,
                    "forgetting_tokens": 100,
                    "encoding": {"chat": True},
                    "adapt": {"lora": {"rank": 4, "dropout": 0.1}},
                    "steps": steps,
                    "batch_size": 4,
                    "learning_rate": 0.01,
                    "checkpoint_every": 1,
                }
            },
            {"measure": {"name": "after", "perplexity": perplexity}},
            {"merge": {}},
            {"quantize": {"name": "small", "dynamic": {}, "text": text, "max_tokens": 100, "allow_slower": True}},
            {"generate": {"prompts": ["Who?", "What?"], "max_new_tokens": 4}},
            {
                "compare": {
                    "with": ["base", "merge"],
                    "on": [{"perplexity": perplexity}, "size", "samples"],
                    "prompts": ["Who?"],
                    "max_new_tokens": 4,
                }
            },
        ],
    }


def _by_name(summary: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {step["name"]: step for step in summary["steps"]}


def test_a_whole_life(folder):
    out = folder / "run"
    summary = run_recipe(_recipe(folder), out=out)
    assert summary == json.loads((out / "summary.json").read_text())
    assert "<svg" in (out / "report.html").read_text()
    steps = _by_name(summary)
    assert list(steps) == ["before", "audit", "tuned", "after", "merge", "small", "generate", "compare"]
    assert not any(step["skipped"] for step in summary["steps"])
    tuned, before, after = (steps[name]["result"] for name in ("tuned", "before", "after"))
    assert tuned["validation_loss_after"] < tuned["validation_loss_before"]
    assert tuned["forgetting"] == pytest.approx(tuned["general_loss_after"] - tuned["general_loss_before"])
    assert before["perplexity"]["value"] != after["perplexity"]["value"]
    assert steps["audit"]["result"]["rows"] == 12
    rows = steps["compare"]["result"]["models"]
    assert list(rows) == ["base", "merge", "small"]
    assert rows["base"]["perplexity"] == pytest.approx(before["perplexity"]["value"])
    assert rows["merge"]["perplexity"] == pytest.approx(after["perplexity"]["value"], rel=1e-5)
    assert rows["small"]["bytes"] < rows["merge"]["bytes"] == rows["base"]["bytes"]
    assert len(steps["generate"]["result"]["generations"]) == 2
    edges = [tuple(edge) for edge in summary["lineage"]["edges"]]
    assert ("base", "tuned", "train") in edges and ("tuned", "merge", "merge") in edges
    assert ("merge", "small", "quantize") in edges
    # Every model it made loads back and is the one that was measured.
    model = load(str(out / "steps" / "06-small" / "model"))
    assert model.card["name"] == "small" and [e["name"] for e in model.card["history"]] == ["tuned", "merge", "small"]
    assert model.nbytes() == rows["small"]["bytes"]
    tuned_model = load(str(out / "steps" / "03-tuned" / "model"))
    assert tuned_model.adapter is not None and tuned_model.adapter.rank == 4


def test_unchanged_steps_are_skipped_and_changes_flow_down(folder):
    values = _recipe(folder)
    first = _by_name(run_recipe(values, out=folder / "run"))
    again = run_recipe(values, out=folder / "run")
    assert all(step["skipped"] for step in again["steps"])
    assert _by_name(again)["tuned"]["result"] == first["tuned"]["result"]
    changed = recipes.apply_overrides(values, ["tuned.learning_rate=0.02"])
    third = _by_name(run_recipe(changed, out=folder / "run"))
    skipped = {name for name, step in third.items() if step["skipped"]}
    assert skipped == {"before", "audit"}
    assert third["compare"]["result"]["models"]["base"] == first["compare"]["result"]["models"]["base"]
    (folder / "text.txt").write_text(TEXT + "More.", encoding="utf-8")
    fourth = _by_name(run_recipe(changed, out=folder / "run"))
    assert {name for name, step in fourth.items() if step["skipped"]} == {"audit"}


def test_a_step_taken_from_the_disk_gives_what_memory_gave(folder):
    values = _recipe(folder)
    whole = _by_name(run_recipe(values, out=folder / "run"))
    shutil.rmtree(folder / "run" / "steps" / "08-compare")
    shutil.rmtree(folder / "run" / "steps" / "06-small")
    again = _by_name(run_recipe(values, out=folder / "run"))
    assert again["merge"]["skipped"] and not again["small"]["skipped"]
    for name in ("small", "compare"):
        for key, value in whole[name]["result"].items():
            if "per_second" not in key and "seconds" not in key and "speed" not in key and key != "success":
                assert again[name]["result"][key] == value


def test_killed_at_random_moments_and_resumed(folder):
    """kill -9 again and again; the run that finally gets through has the same numbers as one that was left alone."""
    values = _recipe(folder, steps=40)
    expected = _by_name(run_recipe(values, out=folder / "whole"))
    (folder / "recipe.yaml").write_text(recipes.dump(values), encoding="utf-8")
    out = folder / "killed"
    command = [sys.executable, "-m", "posttrain", "run", "--out", str(out), "--quiet", "--json"]
    log = out / "events.jsonl"
    chance = random.Random(5)
    for kill in range(6):
        resume = ["--resume"] if (out / "recipe.yaml").exists() else [str(folder / "recipe.yaml")]
        before = log.stat().st_size if log.exists() else 0
        process = subprocess.Popen([*command, *resume], stdout=subprocess.DEVNULL, start_new_session=True)
        while process.poll() is None and not (log.exists() and log.stat().st_size > before):
            time.sleep(0.01)
        if kill < 5:  # the sixth is left alone
            time.sleep(chance.random() * 1.5)
            os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == 0
    found = _by_name(json.loads((out / "summary.json").read_text()))
    losses = [[entry["loss"] for entry in steps["tuned"]["result"]["history"]] for steps in (expected, found)]
    assert losses[0] == losses[1]
    assert found["after"]["result"]["perplexity"]["value"] == expected["after"]["result"]["perplexity"]["value"]
    assert not list(out.rglob(".writing-*"))


def test_ctrl_c_leaves_a_checkpoint_and_says_how_to_go_on(folder):
    values = recipes.apply_overrides(_recipe(folder), ["train.steps=100000", "train.checkpoint_every=null"])
    (folder / "recipe.yaml").write_text(recipes.dump(values), encoding="utf-8")
    command = [sys.executable, "-m", "posttrain", "run", str(folder / "recipe.yaml"), "--out", str(folder / "run")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    log = folder / "run" / "events.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (log.exists() and '"loss"' in log.read_text()):
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume" in errors and "Traceback" not in errors
    assert (folder / "run" / "steps" / "03-tuned" / "checkpoint" / "checkpoint.safetensors").exists()
    summary = json.loads((folder / "run" / "summary.json").read_text())
    assert [step["name"] for step in summary["steps"]] == ["before", "audit"] and not summary["finished"]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("steps.2.train.lerning_rate=1", "learning_rate"),
        ("train.adapt.lora.ranc=1", "rank"),
        ("train.data=nowhere.jsonl", "nowhere.jsonl"),
        ("compare.from=nobody", "nobody"),
        ("model=smolm2", "smollm2"),
        ("colour=red", "colour"),
        ("train.steps=0", "steps"),
        ("train.schedule=cosin", "cosine"),
    ],
)
def test_mistakes_are_named(folder, override, words):
    with pytest.raises(BadRequest, match=words):
        run_recipe(_recipe(folder), out=folder / "run", overrides=[override])


def test_settings_are_checked_before_anything_is_done(folder):
    with pytest.raises(BadRequest):
        run_recipe(_recipe(folder), out=folder / "run", overrides=["compare.onn=[]"])
    assert not (folder / "run").exists()


def test_foreign_folders_are_left_alone(folder):
    (folder / "mine").mkdir()
    (folder / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(BadRequest, match=r"thesis\.txt"):
        run_recipe(_recipe(folder), out=folder / "mine")
    with pytest.raises(BadRequest, match=r"thesis\.txt"):
        single_step("merge", {}, str(folder / "model"), out=folder / "mine")
    assert (folder / "mine" / "thesis.txt").read_text() == "years of work"


def test_names(folder):
    steps = [{"merge": {}}, {"merge": {}}, {"merge": {"name": "x", "from": "merge-2"}}]
    assert [entry.name for entry in parse_steps(steps)] == ["merge", "merge-2", "x"]
    with pytest.raises(BadRequest, match="taken"):
        parse_steps([{"merge": {"name": "a"}}, {"merge": {"name": "a"}}])
    with pytest.raises(BadRequest, match="one `verb: settings`"):
        parse_steps([{"merge": {}, "audit": {}}])
    with pytest.raises(BadRequest, match="no steps"):
        parse_steps([])
    with pytest.raises(BadRequest, match="'merge'"):
        parse_steps([{"mrege": {}}])


def test_a_step_reads_what_an_earlier_one_left(folder):
    """`data: feedback` stands for that step's file; the file's content is part of the key, its place isn't."""
    pairs = [{"prompt": f"What is {i}?", "chosen": f"A number, {i}.", "rejected": "Who knows."} for i in range(6)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    align = {"objective": "reward_model", "data": "feedback", "steps": 1, "batch_size": 2}
    steps = [{"feedback": {"pairs": str(folder / "pairs.jsonl")}}, {"align": align}]
    values = {"name": "tiny", "model": str(folder / "model"), "steps": steps}
    done = run_recipe(values, out=folder / "run")
    judge = done["steps"][1]
    assert judge["inputs"]["data"]["source"] == "feedback"
    assert ["data:feedback", "align", "data"] in done["lineage"]["edges"]

    shutil.move(folder / "run", folder / "moved")
    again = run_recipe(values, out=folder / "moved")
    assert [step["skipped"] for step in again["steps"]] == [True, True]

    (folder / "moved" / "steps" / "01-feedback" / "pairs.jsonl").unlink()
    again = run_recipe(values, out=folder / "moved")
    assert [step["skipped"] for step in again["steps"]] == [False, True]


def test_resuming_what_is_not_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadRequest, match="no run to resume"):
        run_recipe(None, resume=True)
    with pytest.raises(BadRequest, match="no run to resume"):
        run_recipe(None, out=tmp_path / "x", resume=True)
    with pytest.raises(BadRequest, match="quickstart"):
        read_recipe("qickstart")


def test_base_key_follows_the_files(folder):
    key = base_key(str(folder / "model"), "float32")
    assert key == base_key(str(folder / "model"), "float32")
    assert key != base_key(str(folder / "model"), "bfloat16")
    os.utime(folder / "model" / "model.safetensors", (1, 1))
    assert key != base_key(str(folder / "model"), "float32")


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_are_valid(name):
    values = read_recipe(name)
    quick = values.pop("fast", {})
    assert parse_steps(values["steps"])
    overridden = recipes.apply_overrides(values, [f"{k}={json.dumps(v)}" for k, v in quick.items()])
    assert parse_steps(overridden["steps"]) and overridden["steps"] != values["steps"]


def test_single_step_resumes_beside_its_folder(folder):
    """An interrupted `posttrain train` leaves its checkpoint beside --out and the next call with resume goes on."""
    from posttrain.core import events

    settings = {"data": str(folder / "data.jsonl"), "steps": 5, "learning_rate": 0.01, "checkpoint_every": 1}
    whole = single_step("train", settings, str(folder / "model"), out=folder / "whole").result

    def stop(event: events.Event) -> None:
        if event.kind == "advance" and event.name == "Train" and event.fields["done"] == 3:
            raise RuntimeError

    with pytest.raises(RuntimeError), events.listen(stop):
        single_step("train", settings, str(folder / "model"), out=folder / "tuned")
    assert not (folder / "tuned").exists()
    rest = single_step("train", settings, str(folder / "model"), out=folder / "tuned", resume=True).result
    assert [e["loss"] for e in rest["history"]] == [e["loss"] for e in whole["history"]]
    assert sorted(p.name for p in folder.iterdir() if "tuned" in p.name) == ["tuned"]


@pytest.mark.parametrize("name", ["../../elsewhere", "a/b", "a\\b", ".hidden", " ", "n" * 201])
def test_names_that_lead_out_of_the_run_are_refused(name):
    """A step's folder is emptied before its work, so it must be one below the run's."""
    with pytest.raises(BadRequest, match=r"steps\[0\]\.card\.name' doesn't fit: a folder is called so"):
        parse_steps([{"card": {"name": name}}])


def test_what_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for values, told in (
        ({"name": "../out", "model": "smollm2"}, "A run's folder can't be called '../out'"),
        ({"name": "missing", "model": "./missing"}, "There is no model './missing'"),
        ({"name": "quick", "model": "smollm2", "fast": 3}, "'fast' expects"),
    ):
        with pytest.raises(BadRequest, match=told):
            run_recipe({**values, "steps": [{"card": {}}]})
    assert list(tmp_path.iterdir()) == []
