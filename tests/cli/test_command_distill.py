"""`posttrain distill`."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def words(model, questions):
    return ["distill", model, "--student", "layers:1", "--data", questions, "--steps", 2, "--batch-size", 2]


def test_json(invoke, model, words, questions, tmp_path):
    words += ["--set", "losses.response.temperature=4", "--set", "losses.feature.weight=0.5", "--validation", questions]
    result = invoke(*words, "--out", tmp_path / "out", "--json").json
    assert result.keys() >= {"teacher", "student", "baseline", "retained", "seconds", "out"}
    for name in ("teacher", "student", "baseline"):
        assert result[name].keys() >= {"loss", "bytes", "parameters", "tokens_per_second"}
    assert result["history"]["student"][0].keys() >= {"response", "feature"}
    card = json.loads((tmp_path / "out" / "posttrain.json").read_text())
    assert card["history"][0]["made_by"]["distill"]["losses"][0]["response"]["temperature"] == 4
    assert invoke("generate", tmp_path / "out", "Who?", "--max-new-tokens", 2, "--json").code == 0


def test_without_baseline(invoke, words, tmp_path):
    result = invoke(*words, "--losses", "relation", "--set", "baseline=false", "--out", tmp_path / "o", "--json").json
    assert "baseline" not in result and "relation" in result["history"]["student"][0]


def test_human_form_leaves_the_curves_out(invoke, words, tmp_path):
    ran = invoke(*words, "--out", tmp_path / "o")
    assert ran.code == 0
    assert "teacher" in ran.out and "gradient_norm" not in ran.out


def test_refusals(invoke, model, words, questions, tmp_path):
    assert "required: --student" in invoke("distill", model, "--data", questions, "--out", tmp_path / "o").refused(2)
    words += ["--out", tmp_path / "o"]
    assert "Did you mean 'response'?" in invoke(*words, "--losses", "respons").refused(2)
    words[3] = "layers:9"
    assert "A student of 9 blocks can't be taken from a teacher of 2." in invoke(*words).refused(2)
