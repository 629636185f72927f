"""`posttrain contamination`."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def data(tmp_path):
    """Four items of LAMBADA's form, one of which is in the training data."""
    (tmp_path / "lambada").mkdir()
    rows = [{"text": " ".join(f"w{i}x{j}" for j in range(15))} for i in range(4)]
    (tmp_path / "lambada" / "lambada_test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "train.jsonl").write_text(json.dumps({"text": f"So {rows[2]['text']}."}) + "\n")
    return tmp_path


def test_json(invoke, data, model):
    words = ["lambada_openai", "--data", data]
    assert invoke("bench", model, *words, "--out", data / "items.jsonl", "--json").code == 0
    options = ["--train", data / "train.jsonl", "--items", data / "items.jsonl", "--json"]
    result = invoke("contamination", *words, *options).json
    found = result["lambada_openai"]
    assert (found["contaminated"], found["judged"], found["items"], found["share"]) == (1, 4, 4, 0.25)
    assert found["interval"] == pytest.approx([0.0456, 0.6994], abs=1e-4)
    assert found["found"][0]["where"] == f"{data / 'train.jsonl'}:1"
    assert found["scores"]["n_clean"] == 3
    assert (result["files"], result["words"]) == (1, 16)


def test_human_form(invoke, data):
    ran = invoke("contamination", "lambada_openai", "--data", data, "--train", data / "train.jsonl")
    lines = ran.out.splitlines()
    assert lines[0].split()[:5] == ["task", "contaminated", "judged", "items", "share"]
    assert lines[1].split()[:4] == ["lambada_openai", "1", "4", "4"]
    assert "15 words in" in ran.out
    assert "w2x0 w2x1" in ran.out


def test_refusals(invoke, data):
    words = ["contamination", "lambada_openai", "--data", data]
    assert "--train" in invoke(*words).refused(2)
    assert "no file or folder" in invoke(*words, "--train", data / "x").refused(2)
    assert "There is no task 'x'" in invoke("contamination", "x", "--train", data / "train.jsonl").refused(2)
