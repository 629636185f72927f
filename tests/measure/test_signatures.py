"""What two signatures differ in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from posttrain.measure import signature_differences
from posttrain.measure.perplexity import Perplexity
from posttrain.models.language_model import LanguageModel
from tiny_models import make_tiny_llama


@pytest.mark.parametrize(
    ("second", "right"),
    [
        ("perplexity|model:b|window:8|special:none", []),
        ("perplexity|model:a|window:9|special:none", ["window"]),
        ("perplexity|model:a|special:none", ["window"]),
        ("perplexity|model:a|window:8|special:none|unknown:2", ["unknown"]),
        ("bleu|model:a|window:8|special:none", ["metric"]),
        ("perplexity|model:a|window:8|special:a:b", ["special"]),
        ("perplexity|model:a|window:8|special:none|chat", ["chat"]),  # a part without a value
    ],
)
def test_by_hand(second: str, right: list[str]) -> None:
    assert signature_differences("perplexity|model:a|window:8|special:none", second) == right


def test_two_models_may_differ_in_nothing_else(tiny_llama: LanguageModel, tmp_path: Path) -> None:
    path = tmp_path / "text.jsonl"
    path.write_text(json.dumps({"text": "The fox runs over the field."}) + "\n")
    metric = Perplexity(text=str(path))
    first, second = metric.measure(tiny_llama), metric.measure(make_tiny_llama(seed=1))
    assert first.signature != second.signature
    assert signature_differences(first.signature, second.signature) == []
    short = Perplexity(text=str(path), window=8, max_tokens=6).measure(tiny_llama)
    assert signature_differences(first.signature, short.signature) == ["tokens", "window", "stride"]
