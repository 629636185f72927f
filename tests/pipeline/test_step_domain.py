"""The step `domain`: two models, one of which was made to like one kind of text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from posttrain.core.errors import BadRequest
from posttrain.curate.text_scores import score_texts
from posttrain.data.record import Text
from posttrain.measure import signature_differences
from posttrain.models.language_model import LanguageModel
from posttrain.models.saving import save
from posttrain.pipeline.run import run_recipe
from posttrain.pipeline.single_step import single_step
from tiny_models import make_tiny_llama

TEXTS = ["zzzz zzzz zzzz", "The fox runs over the field.", "zz zz zz zz zz zz"]


@pytest.fixture
def texts(tmp_path: Path) -> str:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(TEXTS))
    return str(path)


def liking(letters: str) -> LanguageModel:
    """A model whose output head has a bias for the tokens of some letters."""
    model = make_tiny_llama()
    network: Any = model.network
    head = torch.nn.Linear(64, 300, bias=True)
    with torch.no_grad():
        head.weight.copy_(network.lm_head.weight)
        head.bias.zero_()
        head.bias[model.tokenizer(letters)["input_ids"]] = 4.0
    network.lm_head = head
    return model


def test_each_text_goes_to_the_model_that_likes_it(texts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from posttrain.pipeline.steps import domain as step

    zs = liking("z z")
    zs.reference = "zs"
    plain = make_tiny_llama()
    save(plain, tmp_path / "plain")
    outcome = single_step("domain", {"data": texts, "models": [str(tmp_path / "plain")]}, zs)
    found = outcome.result["domains"]
    assert [each["domain"] for each in found] == ["zs", str(tmp_path / "plain"), "zs"]
    for name, model in (("zs", zs), (str(tmp_path / "plain"), plain)):
        right = [score.bits_per_byte for score in score_texts(model, [Text(text) for text in TEXTS])]
        assert [each["domain_bits_per_byte"][name] for each in found] == pytest.approx(right, rel=1e-5)
    assert outcome.result["models"]["zs"]["texts"] == 2
    assert outcome.result["best"] in ("zs", str(tmp_path / "plain"))
    assert outcome.records == step.TEXTS_FILE


def test_in_a_recipe_models_are_steps(tiny_llama: LanguageModel, texts: str, tmp_path: Path) -> None:
    save(tiny_llama, tmp_path / "model")
    rows = [{"text": "The fox runs over the field. "}] * 4
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    steps = [
        {"train": {"name": "field", "data": str(tmp_path / "train.jsonl"), "steps": 4, "learning_rate": 0.01}},
        {"domain": {"data": texts, "models": ["base"], "min_margin": 0.001}},
    ]
    summary = run_recipe({"model": str(tmp_path / "model"), "steps": steps}, out=tmp_path / "run")
    result = summary["steps"][1]["result"]
    assert result["domains"][1]["domain"] == "field"
    written = (tmp_path / "run/steps/02-domain/texts.jsonl").read_text().splitlines()
    assert [json.loads(line)["text"] for line in written] == TEXTS
    assert json.loads(written[1])["domain"] == "field"


def test_a_model_twice_is_refused(tiny_llama: LanguageModel, texts: str, tmp_path: Path) -> None:
    save(tiny_llama, tmp_path / "model")
    with pytest.raises(BadRequest, match="named twice"):
        single_step("domain", {"data": texts, "models": [str(tmp_path / "model")]}, str(tmp_path / "model"))


def test_every_models_figures_say_how_they_were_made(tiny_llama: LanguageModel, texts: str, tmp_path: Path) -> None:
    save(tiny_llama, tmp_path / "a")
    save(make_tiny_llama(1), tmp_path / "b")
    outcome = single_step("domain", {"data": texts, "models": [str(tmp_path / "b")]}, str(tmp_path / "a"))
    told = [each["signature"] for each in outcome.result["models"].values()]
    assert all(each.startswith("domain|model:") for each in told)
    assert signature_differences(*told) == []  # but for the model
    assert [view["text"] for view in outcome.views if view.get("tone") == "source"] == [f"Signature: {e}" for e in told]
