"""`posttrain score`."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.fixture
def texts(tmp_path, monkeypatch):
    """25 texts of a system, of a worse one, and their references, two files of them."""
    monkeypatch.chdir(tmp_path)
    right = [f"the river rose in the {n % 7} night of rain" for n in range(25)]
    (tmp_path / "right").write_text("".join(f"{text}\n" for text in right))
    (tmp_path / "also").write_text("".join(f"{text.replace('rose', 'was rising')}\n" for text in right))
    (tmp_path / "good").write_text("".join(f"{text.replace('river', 'rivers')}\n" for text in right))
    (tmp_path / "bad").write_text("the night was the rain\n" * 25)
    return tmp_path


def test_json_equals_sacrebleu(invoke, texts):
    from sacrebleu.metrics.bleu import BLEU

    good, right, also = ((texts / name).read_text().splitlines() for name in ("good", "right", "also"))
    result = invoke("score", "bleu", "--predictions", "good", "--references", "right", "also", "--json").json
    assert result["value"] == pytest.approx(BLEU().corpus_score(good, [right, also]).score)
    assert result["interval"][0] <= result["value"] <= result["interval"][1]
    assert "nrefs:2" in result["signature"]
    assert len(result["precisions"]) == 4


def test_settings_and_seed(invoke, texts):
    words = ["score", "rouge", "--predictions", "good", "--references", "right", "--json"]
    plain = invoke(*words).json
    assert invoke(*words, "--set", "stemming=true").json["value"] == 1.0 > plain["value"]
    assert invoke(*words, "--set", "rouge.stemming=true").json["value"] == 1.0
    assert invoke(*words, "--seed", 3).json["value"] == plain["value"]
    assert "Did you mean 'stemming'?" in invoke(*words, "--set", "steming=true").refused(2)


def test_baseline(invoke, texts):
    words = ["score", "rouge", "--predictions", "good", "--references", "right", "--baseline", "bad"]
    result = invoke(*words, "--json").json
    assert (
        result["difference"] == pytest.approx(result["value"] - result["baseline"]["value"]) and result["value"] > 0.5
    )
    assert result["difference_interval"][0] > 0
    assert result["p_value"] < 0.01
    ran = invoke(*words)
    assert ran.code == 0
    assert {"value", "difference", "p value"} <= {line.split("  ")[0] for line in ran.out.splitlines()}


def test_predictions_alone(invoke, texts):
    result = invoke("score", "self-bleu", "--predictions", "bad", "--json").json
    assert result["value"] == pytest.approx(100)


def test_without_torch(texts):
    """Scores of words need no network."""
    program = (
        "import sys; from posttrain.cli import main;"
        "assert main(['score', 'rouge', '--predictions', 'good', '--references', 'right', '--quiet']) == 0;"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=texts)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["rouge", "--predictions", "good", "--references", "short"], "good has 25 texts, but short has 1."),
        (["rouge", "--predictions", "good"], "rouge compares with references, and there are none."),
        (["rouge", "--references", "right"], "The following arguments are required: --predictions."),
        (["bleu", "--predictions", "short", "--references", "short"], "No reference has 4 words"),
        (["rouge", "--predictions", "none", "--references", "right"], "none holds no text."),
        (["rouge", "--predictions", "latin", "--references", "right"], "latin:1: byte 0xe9 at offset 3"),
        (["perplexity", "--predictions", "good"], "perplexity measures a model"),
        (["pearson", "--predictions", "short", "--references", "short"], "Prediction 1 is no number: 'word'."),
    ],
)
def test_bad_requests(invoke, texts, words, sentence):
    (texts / "short").write_text("word\n")
    (texts / "none").write_text("")
    (texts / "latin").write_bytes(b"caf\xe9\n")
    assert sentence in invoke("score", *words, "--json").refused(2)
