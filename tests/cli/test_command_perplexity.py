"""`posttrain perplexity`."""

from __future__ import annotations

import json
import math

import pytest


def test_json_shape_and_value(invoke, model, text):
    """The value against transformers: one window over the whole text is its ordinary loss."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    result = invoke("perplexity", model, text, "--window", 128, "--json").json
    ids = AutoTokenizer.from_pretrained(model)(text.read_text(), return_tensors="pt").input_ids
    with torch.no_grad():
        loss = float(AutoModelForCausalLM.from_pretrained(model)(input_ids=ids, labels=ids).loss)
    assert result["nll"] == pytest.approx(loss, rel=1e-5)
    assert result["perplexity"] == pytest.approx(math.exp(loss), rel=1e-5)
    assert result["tokens_scored"] == ids.shape[1] - 1
    assert result["bits_per_byte"] > 0
    assert result["seconds"] > 0
    assert "window:128" in result["signature"]
    assert "interval" in result


def test_options_and_settings(invoke, model, text):
    short = ["perplexity", model, text, "--window", 32, "--max-tokens", 20, "--json"]
    result = invoke(*short, "--stride", 8, "--batch-size", 1).json
    assert result["tokens_scored"] == 19
    assert "stride:8" in result["signature"]
    for override in ("stride=8", "perplexity.stride=8"):
        assert invoke(*short, "--set", override).json["nll"] == pytest.approx(result["nll"], rel=1e-6)


def test_pseudo_perplexity_is_for_masked_models(invoke, model, text):
    message = invoke("perplexity", model, text, "--pseudo", "--json").refused(2)
    assert "no masked language model" in message


def test_human_form(invoke, model, text):
    ran = invoke("perplexity", model, text, "--window", 64)
    assert ran.code == 0
    assert any(line.startswith("perplexity  ") for line in ran.out.splitlines())
    assert "Perplexity: done" in ran.err
    assert invoke("perplexity", model, text, "--window", 64, "--quiet").err == ""


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--stride", "64", "--window", "32"], "stride 64 is larger than window 32"),
        (["--window", "1"], "'measure.perplexity.window' doesn't fit"),
        (["--set", "windw=3"], "Did you mean 'window'?"),
        (["--window", "4096"], "longer than the model's context of 128 tokens"),
        (["--window", "many"], "Argument --window: invalid int value: 'many'."),
    ],
)
def test_bad_requests(invoke, model, text, words, sentence):
    assert sentence in invoke("perplexity", model, text, *words, "--json").refused(2)


def test_a_missing_file_is_named(invoke, model, text):
    message = invoke("perplexity", model, text.with_name("txet.txt")).refused(2)
    assert "txet.txt doesn't exist. Near it: text.txt." in message


def test_answers_given_their_prompts(invoke, model, questions):
    result = invoke("perplexity", model, questions, "--conditional", "--json").json
    assert result["name"] == "conditional_perplexity"
    assert result["conditional_perplexity"] == result["value"]
    assert result["records"] == 2


def test_spans_and_patterns(invoke, model, text, tmp_path):
    found = invoke("perplexity", model, text, "--pattern", "fox|dog", "--json").json
    assert (found["name"], found["spans"]) == ("span_perplexity", 4)
    marked = tmp_path / "marked.jsonl"
    spans = [
        [place, place + 3]
        for word in ("fox", "dog")
        for place in range(80)
        if text.read_text()[place:].startswith(word)
    ]
    marked.write_text(json.dumps({"text": text.read_text(), "spans": spans}) + "\n")
    same = invoke("perplexity", model, marked, "--spans", "--json").json
    assert same["value"] == pytest.approx(found["value"], rel=1e-6)
    assert "not allowed with" in invoke("perplexity", model, text, "--spans", "--pseudo").refused(2)


def test_texts_as_items(invoke, model, text):
    found = invoke("perplexity", model, text, "--per-text", "--json").json
    assert found["sequence_perplexity"] == pytest.approx(found["corpus_perplexity"], rel=1e-5)  # one text
    assert found["name"] == "sequence_perplexity"


def test_another_precision_tells_its_error(invoke, model, text):
    words = ["perplexity", model, text, "--json"]
    result = invoke(*words, "--dtype", "bfloat16", "--against-float32").json
    exact = invoke(*words).json
    assert "dtype:bfloat16" in result["signature"]
    assert result["float32"]["signature"] == exact["signature"]
    assert result["float32"]["value"] == pytest.approx(exact["value"], rel=1e-6)
    assert result["relative_error"] == pytest.approx(result["value"] / exact["value"] - 1)
    assert 0 < abs(result["relative_error"]) < 0.05
    assert "Give one: --dtype bfloat16" in invoke(*words, "--against-float32").refused(2)
