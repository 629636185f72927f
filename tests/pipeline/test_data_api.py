"""The Python API for data, as users call it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import posttrain
from posttrain.core.errors import BadRequest
from posttrain.models.language_model import LanguageModel
from tiny_models import make_tiny_llama


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("".join(f"The fox number {n} runs over field {n % 7}.\n" for n in range(24)))
    return path


def test_filter_texts(tiny_llama: LanguageModel, texts: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "kept.jsonl"
    found = posttrain.filter_texts(tiny_llama, texts, out, keep=0.25)
    assert found["kept"] == 6 == len(out.read_text().splitlines())
    assert [path.name for path in out.parent.iterdir()] == ["kept.jsonl"]
    with pytest.raises(BadRequest, match="Nothing says which"):
        posttrain.filter_texts(tiny_llama, texts, out)


def test_domain(tiny_llama: LanguageModel, texts: Path) -> None:
    other = make_tiny_llama(seed=1)
    found = posttrain.domain(texts, {"zero": tiny_llama, "one": other})
    assert set(found["models"]) == {"zero", "one"}
    better = min(found["models"], key=lambda name: found["models"][name]["bits_per_byte"])
    assert found["best"] == better and found["models"][better]["p_value"] is None
    assert len(found["domains"]) == 24
    json.dumps(found, allow_nan=False)
    with pytest.raises(BadRequest):
        posttrain.domain(texts, {"zero": tiny_llama})


def test_difficulty(tiny_llama: LanguageModel, tmp_path: Path) -> None:
    found = posttrain.difficulty(tiny_llama, "The fox runs. It sleeps.", tmp_path / "page.html", title="A fox")
    assert [segment.text for segment in found.segments] == ["The fox runs.", " It sleeps."]
    assert "<h1>A fox</h1>" in (tmp_path / "page.html").read_text()


def test_drift(tiny_llama: LanguageModel, texts: Path) -> None:
    found = posttrain.drift(tiny_llama, texts, texts, permutations=500)
    assert found.verdict == "none" and not found.alarm
