"""The step `filter`: what it keeps, what later steps read, and that nothing is scored twice."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posttrain.core.errors import BadRequest
from posttrain.curate import text_scores
from posttrain.curate.text_scores import score_texts
from posttrain.data import dataset
from posttrain.models.language_model import LanguageModel
from posttrain.models.saving import save
from posttrain.pipeline.run import run_recipe
from posttrain.pipeline.single_step import single_step
from posttrain.pipeline.steps.filter import Filter

TEXTS = [f"The fox number {n} runs over the field." for n in range(12)] + ["aaaaaaaaaaaaaaaaaaaaaaaaaaaa", "q%zX@#vK~"]


@pytest.fixture
def texts(tmp_path: Path) -> str:
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text, "id": n}) + "\n" for n, text in enumerate(TEXTS)))
    return str(path)


@pytest.fixture
def model(tiny_llama: LanguageModel, tmp_path: Path) -> str:
    save(tiny_llama, tmp_path / "model")
    return str(tmp_path / "model")


def run(model: str, steps: list[dict[str, Any]], out: Path) -> list[dict[str, Any]]:
    return run_recipe({"model": model, "steps": steps}, out=out)["steps"]


def test_later_steps_read_what_was_kept(model: str, texts: str, tiny_llama: LanguageModel, tmp_path: Path) -> None:
    steps = [
        {"filter": {"name": "clean", "data": texts, "keep": 0.5}},
        {"measure": {"sequence_perplexity": {"text": "clean", "special_tokens": "begin"}}},
    ]
    filtered, measured = run(model, steps, tmp_path / "run")
    perplexities = [score.perplexity for score in score_texts(tiny_llama, dataset.read(texts).records)]
    right = sorted(np.argsort(perplexities)[:7].tolist())
    rows = [json.loads(line) for line in (tmp_path / "run/steps/01-clean/kept.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == right
    assert [row["perplexity"] for row in rows] == pytest.approx([perplexities[n] for n in right], rel=1e-6)
    result = filtered["result"]
    assert (result["texts"], result["kept"], result["dropped"], result["kept_share"]) == (14, 7, 7, 0.5)
    assert result["dropped_by"] == {"perplexity": 7}
    assert result["perplexity"]["p50"] == pytest.approx(np.median(perplexities), rel=1e-6)
    assert not list((tmp_path / "run/steps/01-clean").glob("*unfinished"))
    geometric = float(np.exp(np.mean(np.log([perplexities[n] for n in right]))))
    assert measured["result"]["sequence_perplexity"]["value"] == pytest.approx(geometric, rel=1e-5)
    again = run(model, steps, tmp_path / "run")
    assert all(step["skipped"] for step in again)


def test_a_reference_flags_what_is_unlike_it(model: str, texts: str, tmp_path: Path) -> None:
    """The twelve sentences are the reference; repetition is too predictable there, noise too unpredictable."""
    good = tmp_path / "good.txt"
    good.write_text("\n".join(TEXTS[:12]))
    settings = {"data": texts, "reference": str(good), "flag": True}
    (step,) = run(model, [{"filter": settings}], tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run/steps/01-filter/kept.jsonl").read_text().splitlines()]
    assert len(rows) == 14
    assert rows[13]["kept"] is False and rows[13]["z"] > 3.5 and rows[13]["quality"] == pytest.approx(2 / 13)
    assert rows[13]["dropped_by"].startswith("z +")
    assert sum(row["kept"] for row in rows[:12]) >= 10
    assert step["result"]["reference_texts"] == 12
    assert [view["title"] for view in step["views"] if view["kind"] == "samples"] == ["What was flagged"]


def test_an_interrupted_run_goes_on(model: str, texts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_scores, "_PART_RECORDS", 4)
    real, calls = text_scores.token_losses, []

    def counting(*arguments: Any, **more: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments, **more)

    monkeypatch.setattr(text_scores, "token_losses", counting)
    steps = [{"filter": {"data": texts, "keep": 0.5}}]
    with pytest.raises(KeyboardInterrupt):
        run(model, steps, tmp_path / "run")
    (step,) = run(model, steps, tmp_path / "run")
    assert len(calls) == 3 + 2  # of four parts two were kept
    assert step["result"]["kept"] == 7


def test_nothing_kept_leaves_no_records(tiny_llama: LanguageModel, texts: str) -> None:
    outcome = single_step("filter", {"data": texts, "max_perplexity": 0.5}, tiny_llama)
    assert outcome.records is None and outcome.result["kept"] == 0
    assert any("No text was kept" in view.get("text", "") for view in outcome.views)


def test_a_rule_is_needed(tiny_llama: LanguageModel, texts: str) -> None:
    with pytest.raises(BadRequest, match="Nothing says which texts to keep"):
        single_step("filter", {"data": texts}, tiny_llama)
    with pytest.raises(BadRequest, match=r"lower end 5\.0 lies above"):
        Filter.parse({"data": texts, "between": [5, 2]}).rule()


def test_a_band_is_made_of_numbers(texts: str) -> None:
    """Nothing lies between nan and 1, so nothing would be kept."""
    with pytest.raises(BadRequest, match="a band lies between two numbers, not nan and 1"):
        Filter.parse({"data": texts, "between": [math.nan, 1]}).rule()


def test_a_small_reference_is_refused_before_anything_is_scored(texts: str, tmp_path: Path) -> None:
    (tmp_path / "few.txt").write_text("one\ntwo\n")
    with pytest.raises(BadRequest, match="The reference set has 2 texts; at least 10"):
        Filter.parse({"data": texts, "reference": str(tmp_path / "few.txt")}).hashes()
