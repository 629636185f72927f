"""The step `audit` on networks that don't predict tokens: what their task would read, or a clear refusal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from posttrain.core.errors import BadRequest
from posttrain.models.language_model import LanguageModel
from posttrain.pipeline.single_step import single_step
from tiny_models import make_tiny_bert

SENTENCES = ["the dog is good", "a good film", "bad film", "the fox was bad"]


@pytest.fixture
def data(tmp_path: Path) -> dict[str, str]:
    rows = {
        "labels": [{"text": each, "label": "pro" if "good" in each else "contra"} for each in SENTENCES],
        "pairs": [{"sentence1": "the dog", "sentence2": "a film", "label": label} for label in ("pro", "contra")],
        "tags": [{"tokens": each.split(), "tags": ["B-X", *["O"] * (len(each.split()) - 1)]} for each in SENTENCES],
        "others": [{"text": "a film", "label": "neutral"}],
        "completions": [{"prompt": "a", "completion": " film"}],
    }
    for name, each in rows.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in each), encoding="utf-8")
    return {name: str(tmp_path / f"{name}.jsonl") for name in rows}


def trained(data: str, objective: str) -> LanguageModel:
    model = make_tiny_bert()
    single_step("train", {"data": data, "objective": objective, "steps": 1, "adapt": "full"}, model)
    return model


def test_a_classifier_reads_what_its_objective_encodes(data):
    """With its special tokens, and pairs as pairs: [CLS] the dog is good [SEP] are 6 tokens."""
    model = trained(data["labels"], "sequence_classification")
    outcome = single_step("audit", {"data": data["labels"]}, model)
    result = outcome.result
    assert result["sample"] == "[CLS] the dog is good [SEP]"
    assert (result["longest"], result["tokens"], result["loss_tokens"]) == (6, 6 + 5 + 4 + 6, None)
    notes = [view["text"] for view in outcome.views if view["kind"] == "note"]
    assert notes == [
        "BertForSequenceClassification learns labels, so no token carries loss by itself. Its labels: contra, pro."
    ]
    assert single_step("audit", {"data": data["pairs"]}, model).result["sample"] == "[CLS] the dog [SEP] a film [SEP]"


def test_a_tagger_reads_words(data):
    model = trained(data["tags"], "token_classification")
    result = single_step("audit", {"data": data["tags"], "max_length": 5}, model).result
    assert result["sample"] == "[CLS] the dog is good [SEP]" and result["truncated"] == 2


@pytest.mark.parametrize(
    ("records", "sentence"),
    [
        ("completions", "a completion record has no label"),
        ("tags", "a tagged record has no label"),
        ("others", "the label 'neutral' isn't one of the model's"),
    ],
)
def test_a_classifier_refuses_what_it_can_not_learn(data, records, sentence):
    with pytest.raises(BadRequest, match=sentence):
        single_step("audit", {"data": data[records]}, trained(data["labels"], "sequence_classification"))


def test_a_body_without_a_head_predicts_no_tokens(data):
    """Labels can be learned with a head that is still to be made; completions can't."""
    assert single_step("audit", {"data": data["labels"]}, make_tiny_bert()).result["loss_tokens"] is None
    with pytest.raises(BadRequest) as refused:
        single_step("audit", {"data": data["completions"]}, make_tiny_bert())
    assert "is a BertModel, which predicts no tokens" in refused.value.problem
    assert "Give records with labels or tags" in refused.value.suggestion
