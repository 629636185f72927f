"""`posttrain perplexity`."""

from __future__ import annotations

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
