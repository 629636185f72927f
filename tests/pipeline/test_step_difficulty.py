"""The step `difficulty`: the page in its folder and the hardest parts in the report."""

from __future__ import annotations

from pathlib import Path

import pytest

from posttrain.models.language_model import LanguageModel
from posttrain.models.saving import save
from posttrain.pipeline.run import run_recipe


def test_a_page_and_tables(tiny_llama: LanguageModel, tmp_path: Path) -> None:
    save(tiny_llama, tmp_path / "model")
    (tmp_path / "texts.jsonl").write_text('{"text": "The fox runs. It sleeps."}\n{"text": "Rain <b>fell</b>."}\n')
    steps = [{"difficulty": {"text": str(tmp_path / "texts.jsonl")}}]
    (step,) = run_recipe({"model": str(tmp_path / "model"), "steps": steps}, out=tmp_path / "run")["steps"]
    result = step["result"]
    assert [each["text"].strip() for each in result["segments"]] == ["The fox runs.", "It sleeps.", "Rain <b>fell</b>."]
    page = (tmp_path / "run/steps/01-difficulty/difficulty.html").read_text()
    assert "<h1>texts.jsonl</h1>" in page and "<b>fell" not in page
    hardest = max(result["segments"], key=lambda each: each["bits_per_token"])
    table = next(view for view in step["views"] if view["kind"] == "table")
    assert table["rows"][0][0] == hardest["text"].strip()
    assert table["rows"][0][1] == pytest.approx(hardest["bits_per_token"])
