"""`posttrain train`, and Ctrl-C in the middle of it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest

from posttrain.core import events


def test_json_shape_and_a_model_that_can_be_used(invoke, model, questions, tmp_path):
    out = tmp_path / "out"
    options = ["--adapt", "lora", "--steps", 3, "--batch-size", 2, "--learning-rate", 0.01, "--out", out]
    result = invoke("train", model, "--data", questions, *options, "--set", "adapt.lora.rank=2", "--json").json
    assert result["loss"] < result["first_loss"]
    assert result["tokens_per_second"] > 0
    assert result["peak_memory_mb"] > 0
    # rank 2 on q (64 → 64), k and v (64 → 32) and o (64 → 64) of two layers: 2·(128 + 96 + 96 + 128)·2
    assert result["trainable_parameters"] == 1792
    assert result["out"] == str(out)
    assert json.loads((out / "adapter_config.json").read_text())["r"] == 2
    assert invoke("generate", out, "Who?", "--max-new-tokens", 2, "--json").code == 0


def test_settings_by_the_recipes_names(invoke, model, questions, tmp_path):
    settings = ["steps=2", "batch_size=1", "adapt.lora.rank=1", "schedule.cosine.warmup=0.5", "learning_rate=0.5"]
    words = [word for setting in settings for word in ("--set", setting)]
    result = invoke("train", model, "--data", questions, "--out", tmp_path / "o", *words, "--json").json
    assert result["trainable_parameters"] == 896
    # Warm-up of one of two steps: the first at 1/2 of the rate, the second at the cosine's start.
    assert [entry["learning_rate"] for entry in result["history"]] == pytest.approx([0.25, 0.5])


def test_epochs(invoke, model, questions, tmp_path):
    options = ["--epochs", 3, "--batch-size", 1, "--out", tmp_path / "o", "--json"]
    assert invoke("train", model, "--data", questions, *options).json["steps"] == 6


def test_human_form_leaves_the_curves_out(invoke, model, questions, tmp_path):
    ran = invoke("train", model, "--data", questions, "--steps", 1, "--out", tmp_path / "o")
    assert ran.code == 0
    assert "trainable parameters" in ran.out
    assert "gradient_norm" not in ran.out
    assert "Train: done" in ran.err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--adapt", "lroa"], "Did you mean 'lora'?"),
        (["--set", "adapt.lora.rnk=2"], "Did you mean 'rank'?"),
        (["--steps", "2", "--epochs", "1"], "Both steps and epochs are given."),
        (["--steps", "0"], "'train.steps' doesn't fit"),
        (["--objective", "nonsense"], "There is no method 'nonsense' in 'objective'."),
    ],
)
def test_bad_requests(invoke, model, questions, tmp_path, words, sentence):
    ran = invoke("train", model, "--data", questions, "--out", tmp_path / "o", *words, "--json")
    assert sentence in ran.refused(2)
    assert not (tmp_path / "o").exists()


def test_a_broken_line_is_named(invoke, model, questions, tmp_path):
    questions.write_text('{"prompt": "a", "completion": "b"}\n{"prompt": \n')
    ran = invoke("train", model, "--data", questions, "--out", tmp_path / "o")
    assert f"{questions}:2: not valid JSON" in ran.refused(2)


def test_out_is_required(invoke, model, questions):
    assert "required: --out" in invoke("train", model, "--data", questions).refused(2)


def test_a_file_in_the_way_is_refused(invoke, model, questions):
    ran = invoke("train", model, "--data", questions, "--steps", 1, "--out", questions)
    assert "is a file, not a folder" in ran.refused(2)
    assert questions.stat().st_size > 0


def test_ctrl_c_saves_and_resume_goes_on(invoke, model, questions, tmp_path):
    out = tmp_path / "out"
    words = ["train", model, "--data", questions, "--out", out, "--steps", 200, "--set", "checkpoint_every=1", "--json"]
    command = [sys.executable, "-m", "posttrain", *map(str, words)]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        while not list(tmp_path.glob(".out.unfinished/checkpoint/*.safetensors")):  # as soon as there is a checkpoint
            assert running.poll() is None, running.communicate()
            time.sleep(0.01)
        running.send_signal(signal.SIGINT)
        stdout, stderr = running.communicate(timeout=60)
    finally:
        running.kill()
    assert (running.returncode, stdout) == (130, "")
    assert "Traceback" not in stderr
    assert not out.exists()

    seen: list[events.Event] = []
    with events.listen(seen.append):
        result = invoke(*words, "--resume").json
    (start,) = [event for event in seen if (event.kind, event.name) == ("start", "Train")]
    assert 1 <= start.fields["done"] < 200
    assert [entry["step"] for entry in result["history"]] == list(range(1, 201))
    assert out.is_dir()


def test_an_adapter_finds_its_base_from_any_folder(invoke, model, questions, tmp_path, monkeypatch):
    """However the base was named: its card holds the absolute path; where the base has gone, that is said."""
    monkeypatch.chdir(tmp_path)
    words = ["--data", questions, "--adapt", "lora", "--steps", 1, "--out", tmp_path / "adapter", "--json"]
    assert invoke("train", "./model", *words).code == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    asked = ["generate", tmp_path / "adapter", "The dog", "--max-new-tokens", 2, "--json"]
    assert invoke(*asked).code == 0
    model.rename(tmp_path / "moved")
    told = invoke(*asked).refused(2)
    assert f"is an adapter on '{model}', and there is no such model here" in told
