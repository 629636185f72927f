"""`posttrain difficulty`."""

from __future__ import annotations

import pytest


def test_difficulty(invoke, model, text, tmp_path):
    out = tmp_path / "page.html"
    result = invoke("difficulty", model, text, "--out", out, "--json").json
    assert "".join(each["text"] for each in result["segments"]) == text.read_text()
    assert result["perplexity"] == pytest.approx(2 ** result["bits_per_token"])
    # The same tokens as the metric scores with a beginning.
    same = invoke("perplexity", model, text, "--set", "special_tokens=begin", "--json").json
    assert result["perplexity"] == pytest.approx(same["perplexity"], rel=1e-5)
    assert out.read_text().startswith("<!DOCTYPE html>")
    assert "hardest" in invoke("difficulty", model, text, "--out", out, "--segments", "line").out
    assert "is no folder" in invoke("difficulty", "no-model", text, "--out", text / "a.html").refused(2)
    assert "isn't named .html" in invoke("difficulty", model, text, "--out", tmp_path / "a.txt").refused(2)
