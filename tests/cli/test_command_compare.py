"""`posttrain compare`."""

from __future__ import annotations


def test_compare_measures_alike_and_tells_the_difference(invoke, model, rounded, text):
    found = invoke("compare", model, rounded, "--text", text, "--set", "max_new_tokens=2", "--json").json
    assert set(found["models"]) == {str(model), str(rounded)}
    assert found["models"][str(rounded)]["bytes"] < found["models"][str(model)]["bytes"]
    assert any(difference["what"].startswith("quantize.") for difference in found["differences"])
    assert "models" not in invoke("compare", model, rounded, "--cards-only", "--json").json
    assert "A model is named twice" in invoke("compare", model, model, "--json").refused(2)
    assert "only one model" in invoke("compare", model, "--json").refused(2)
    shown = invoke("compare", model, rounded, "--text", text, "--set", "max_new_tokens=2").out
    assert "side by side" in shown
