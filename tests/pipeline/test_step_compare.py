"""The step `compare`: values that were measured differently aren't put side by side without a word."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.test_text_tokens import word_tokenizer
from posttrain.core import events
from posttrain.core.errors import BadRequest
from posttrain.measure import signature_differences
from posttrain.models.language_model import LanguageModel
from posttrain.models.saving import save
from posttrain.pipeline.run import parse_steps, run_recipe
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


def test_every_figure_says_how_it_was_made(tiny_llama: LanguageModel, settings: dict[str, object]) -> None:
    outcome = single_step("compare", settings, tiny_llama)
    told = [each["perplexity"] for each in outcome.result["signatures"].values()]
    assert len(told) == 2 and told[0] != told[1] and signature_differences(*told) == []
    assert f"Signature: {told[1]}" in [view.get("text") for view in outcome.views]


def test_models_are_asked_through_the_templates_they_have(
    tiny_llama: LanguageModel, settings: dict[str, object]
) -> None:
    """A base model has none; it gets the plain prompt, as every model does with chat: false."""
    settings = {**settings, "on": ["samples"], "prompts": ["The dog"], "max_new_tokens": 4, "sampling": None}
    (other,) = settings["with"]
    plain = single_step("compare", {**settings, "chat": False}, tiny_llama).result
    assert "asked_without_chat_template" not in plain
    tiny_llama.tokenizer.chat_template = None
    outcome = single_step("compare", settings, tiny_llama)
    assert outcome.result["asked_without_chat_template"] == ["tiny"]
    (answers,), (unasked,) = outcome.result["greedy_answers"], plain["greedy_answers"]
    assert answers["tiny"] == unasked["tiny"] and answers[other] != unasked[other]
    assert any("for want of a chat template" in view.get("text", "") for view in outcome.views)
    with pytest.raises(BadRequest, match="no chat template"):
        single_step("compare", {**settings, "chat": True}, tiny_llama)


def test_prompts_are_read_before_anything_is_measured(tiny_llama: LanguageModel, settings: dict[str, object]) -> None:
    told: list[events.Event] = []
    with events.listen(told.append), pytest.raises(BadRequest, match=r"nowhere.txt doesn't exist"):
        single_step("compare", {**settings, "on": ["speed", "samples"], "prompts": "nowhere.txt"}, tiny_llama)
    assert told == []


def test_changes_of_what_is_read_are_noticed(tiny_llama: LanguageModel, tmp_path: Path) -> None:
    """The prompts' file, and the model that ranks the sampled answers."""
    save(tiny_llama, tmp_path / "model")
    save(tiny_llama, tmp_path / "judge")
    (tmp_path / "prompts.txt").write_text("The dog\n")
    ranked = {"best_of_n": {"n": 2, "reranker": {"perplexity": {"model": str(tmp_path / "judge")}}}}
    step = {"on": ["samples"], "prompts": str(tmp_path / "prompts.txt"), "max_new_tokens": 2, "sampling": ranked}
    recipe = {"name": "compared", "model": str(tmp_path / "model"), "steps": [{"compare": step}]}

    def skipped() -> bool:
        return bool(run_recipe(recipe, out=tmp_path / "run")["steps"][0]["skipped"])

    assert [skipped(), skipped()] == [False, True]
    (tmp_path / "prompts.txt").write_text("The fox\n")
    assert [skipped(), skipped()] == [False, True]
    save(make_tiny_llama(seed=1), tmp_path / "judge")
    assert [skipped(), skipped()] == [False, True]


def test_names_are_refused_before_any_work() -> None:
    with pytest.raises(BadRequest, match=r"steps\[0\]\.compare: there is no earlier step 'tuned'"):
        parse_steps([{"compare": {"with": ["base", "tuned"]}}, {"merge": {"name": "tuned"}}])
    with pytest.raises(BadRequest, match=r"compare\.on' doesn't fit"):
        parse_steps([{"compare": {"on": []}}])
