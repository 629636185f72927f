"""`posttrain classify`, and the way to it: training a classifier from the command line."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from posttrain.models.saving import save
from tiny_models import make_tiny_bert

WORDS = ["the dog is good", "a good film", "bad film", "the fox was bad", "good", "very bad"]


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    save(make_tiny_bert(), tmp_path / "bert")
    return tmp_path / "bert"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [{"text": text, "label": "pro" if "good" in text else "contra"} for text in WORDS]
    path = tmp_path / "labelled.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def trained(invoke, bert, data, tmp_path):
    """Trained by an adapter, so that the folder holds a head without its base."""
    settings = ["--steps", 60, "--learning-rate", "0.01", "--batch-size", 6, "--validation", data]
    settings += ["--set", "adapt.lora.rank=4", "--set", "evaluate_every=20"]
    command = ["train", bert, "--data", data, "--objective", "sequence-classification", "--out", tmp_path / "trained"]
    return tmp_path / "trained", invoke(*command, *settings, "--json").json


def test_training_shows_accuracy_beside_the_majority(trained, invoke, bert, data, tmp_path):
    _, result = trained
    assert result["baseline_accuracy"] == 0.5
    assert result["validation_accuracy_after"] == 1.0 == result["evaluations"][-1]["accuracy"]
    assert [entry["step"] for entry in result["evaluations"]] == [20, 40, 60]
    assert "accuracy" in result["history"][0] and "macro_f1" in result["history"][0]


def test_json_shape(invoke, trained):
    folder, _ = trained
    result = invoke("classify", folder, "good dog", "bad dog", "--json").json
    assert [found["label"] for found in result["predictions"]] == ["pro", "contra"]
    for found, text in zip(result["predictions"], ["good dog", "bad dog"]):
        assert found.keys() == {"text", "label", "probabilities"} and found["text"] == text
        assert sum(found["probabilities"].values()) == pytest.approx(1.0)
        assert found["probabilities"][found["label"]] == max(found["probabilities"].values()) > 0.5


def test_texts_from_a_file_and_from_standard_input(invoke, trained, data, tmp_path, monkeypatch):
    folder, _ = trained
    lines = tmp_path / "texts.txt"
    lines.write_text("good dog\nbad dog\n")
    expected = ["pro", "contra"]
    labels = lambda ran: [found["label"] for found in ran.json["predictions"]]  # noqa: E731
    assert labels(invoke("classify", folder, "--batch-file", lines, "--json")) == expected
    assert labels(invoke("classify", folder, "--batch-file", data, "--json"))[:3] == ["pro", "pro", "contra"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("good dog\n\nbad dog\n"))
    assert labels(invoke("classify", folder, "--json")) == expected


def test_a_line_for_each_text(invoke, trained):
    folder, _ = trained
    lines = invoke("classify", folder, "good dog", "bad dog").out.splitlines()
    assert lines[0].startswith("pro 0.") or lines[0].startswith("pro 1.")
    assert lines[1].endswith("bad dog") and lines[1].startswith("contra")


def test_refusals(invoke, trained, bert, data, model, tmp_path):
    folder, _ = trained
    assert "no head that labels texts" in invoke("classify", bert, "x").refused(2)
    assert "Text 1 is empty" in invoke("classify", folder, " ").refused(2)
    assert "in --batch-file" in invoke("classify", folder, "x", "--batch-file", data).refused(2)
    assert "doesn't generate text" in invoke("generate", folder, "x").refused(2)
    assert "not a causal language model" in invoke("perplexity", folder, data).refused(2)
    wrong = tmp_path / "held-out.jsonl"
    wrong.write_text('{"text": "good", "label": "pro"}\n{"text": "bad", "label": "con"}\n')
    command = ["train", bert, "--data", data, "--objective", "sequence_classification", "--out", tmp_path / "other"]
    assert "held-out.jsonl:2: the label 'con'" in invoke(*command, "--validation", wrong).refused(2)
    told = invoke(*command, "--set", "forgetting=builtin:prose", "--steps", 1).refused(2)
    assert "predicts no text, so `forgetting` can't be measured" in told
