"""`posttrain quantize`."""

from __future__ import annotations

import pytest


def test_json_shape_and_a_model_that_can_be_used(invoke, model, text, tmp_path):
    options = ["--out", tmp_path / "q", "--set", f"text={text}", "--json"]
    result = invoke("quantize", model, "dynamic", *options).json
    assert result["bytes_after"] < result["bytes_before"]
    assert result["perplexity_after"] == pytest.approx(result["perplexity_before"], rel=0.02)
    assert result["tokens_per_second_before"] > 0
    assert result["tokens_per_second_after"] > 0
    assert result["out"] == str(tmp_path / "q")
    assert invoke("generate", tmp_path / "q", "The dog", "--max-new-tokens", 2, "--json").code == 0


def test_human_form_puts_before_beside_after(invoke, model, text, tmp_path):
    ran = invoke("quantize", model, "dynamic", "--out", tmp_path / "q", "--set", f"text={text}")
    assert ran.code == 0
    assert any(line.split() == ["before", "after", "change"] for line in ran.out.splitlines())


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["dynamic", "--bits", "4"], "Unknown key 'quantize.method.dynamic.bits'."),
        (["dynamic", "--set", "target=mlp"], "Did you mean 'targets'?"),
        (["dynamik"], "There is no method 'dynamik' in 'quantize'. Did you mean 'dynamic'?"),
        (["dynamic", "--calibration", "no/such.txt"], "no/such.txt doesn't exist"),
    ],
)
def test_bad_requests(invoke, model, tmp_path, words, sentence):
    assert sentence in invoke("quantize", model, *words, "--out", tmp_path / "q", "--json").refused(2)
    assert not (tmp_path / "q").exists()


def test_the_model_itself_is_not_replaced(invoke, model, text):
    told = invoke("quantize", model, "dynamic", "--out", model, "--set", f"text={text}", "--json").refused(2)
    assert "is the model that this step works on" in told
    assert invoke("generate", model, "The dog", "--max-new-tokens", 2, "--json").code == 0
