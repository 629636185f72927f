"""The step `compare`: values that were measured differently aren't put side by side without a word."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.test_text_tokens import word_tokenizer
from posttrain.models.language_model import LanguageModel
from posttrain.models.saving import save
from posttrain.pipeline.single_step import single_step
from tiny_models import make_tiny_llama


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, object]:
    (tmp_path / "text.txt").write_text("one two three one two three")
    save(make_tiny_llama(seed=1), tmp_path / "other")
    return {"with": [str(tmp_path / "other")], "on": [{"perplexity": {"text": str(tmp_path / "text.txt")}}]}


def test_the_same_tokenizer(tiny_llama: LanguageModel, settings: dict[str, object]) -> None:
    outcome = single_step("compare", settings, tiny_llama)
    assert outcome.result["measured_differently"] == {}
    assert all("bits_per_byte" not in row for row in outcome.result["models"].values())


def test_another_tokenizer(tiny_llama: LanguageModel, settings: dict[str, object]) -> None:
    tiny_llama.tokenizer = word_tokenizer()
    outcome = single_step("compare", settings, tiny_llama)
    assert {"tokenizer", "tokens"} <= set(outcome.result["measured_differently"]["perplexity"])
    assert all(row["bits_per_byte"] > 0 for row in outcome.result["models"].values())
    (warning,) = [view for view in outcome.views if view.get("tone") == "warning"]
    assert "can't be compared" in warning["text"]
