"""The step `drift`: texts of the same kind, texts of another, and labels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from posttrain.core.errors import BadRequest
from posttrain.models.language_model import LanguageModel
from posttrain.pipeline.single_step import single_step
from posttrain.pipeline.steps.drift import Drift

WORDS = [
    "the",
    "fox",
    "runs",
    "over",
    "a",
    "field",
    "and",
    "the",
    "dog",
    "sleeps",
    "while",
    "rain",
    "falls",
    "on",
    "it",
    "all",
    "night",
]


def written(path: Path, count: int, seed: int, noise: bool = False, labels: str = "") -> str:
    draw = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        words = draw.choice(WORDS, draw.integers(4, 12)).tolist()
        text = " ".join("".join(draw.permutation(list(w)).tolist()).upper() if noise else w for w in words)
        rows.append({"text": text, **({"label": str(draw.choice(list(labels)))} if labels else {})})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_the_same_kind_of_text(tiny_llama: LanguageModel, tmp_path: Path) -> None:
    settings = {"reference": written(tmp_path / "a.jsonl", 60, 0), "live": written(tmp_path / "b.jsonl", 50, 1)}
    outcome = single_step("drift", settings, tiny_llama)
    assert outcome.result["verdict"] == "none" and not outcome.result["alarm"]
    assert set(outcome.result["quantities"]) == {"bits_per_byte", "tokens"}
    assert outcome.views[-1]["tone"] == "good"


def test_another_kind_of_text_and_other_labels(tiny_llama: LanguageModel, tmp_path: Path) -> None:
    """Capitals in any order are single letters to the tokenizer: more tokens for the same number of words."""
    settings = {
        "reference": written(tmp_path / "a.jsonl", 60, 0, labels="ab"),
        "live": written(tmp_path / "b.jsonl", 60, 1, noise=True, labels="aaaaab"),
    }
    outcome = single_step("drift", settings, tiny_llama)
    found = outcome.result["quantities"]
    assert outcome.result["alarm"]
    assert found["tokens"]["live_is_higher"] > 0.7 and found["tokens"]["verdict"] == "strong"
    assert set(found["label"]["live"]) == {"a", "b"}
    assert outcome.views[-1]["tone"] == "warning" and "another population" in outcome.views[-1]["text"]
    json.dumps(outcome.result, allow_nan=False)
    assert "|window:128|" in outcome.result["signature"] and "|level:0.01|" in outcome.result["signature"]


def test_small_sets_are_refused_before_anything_is_scored(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("a text\n")
    (tmp_path / "many.txt").write_text("a text\n" * 20)
    for reference, live, name in [("one", "many", "reference"), ("many", "one", "live")]:
        step = Drift.parse({"reference": str(tmp_path / f"{reference}.txt"), "live": str(tmp_path / f"{live}.txt")})
        with pytest.raises(BadRequest, match=f"The {name} set has 1 texts; at least 20"):
            step.hashes()
