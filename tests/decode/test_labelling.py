"""What a classifier says about texts, against transformers on padded batches."""

from __future__ import annotations

import pytest
import torch

import posttrain
from posttrain.core.errors import BadRequest
from posttrain.decode.labelling import classify
from posttrain.models.heads import give_head
from tiny_models import make_tiny_bert, make_tiny_llama

TEXTS = ["the dog is good", "bad", "a very very long film was the fox and the dog", "good film"]


def _model(make, problem, labels=("bad", "fair", "good")):
    torch.manual_seed(0)
    give_head(model := make(), "sequence_classification", labels, problem)
    return model


@pytest.mark.parametrize("make", [make_tiny_bert, make_tiny_llama])
@pytest.mark.parametrize("problem", ["single_label_classification", "multi_label_classification"])
def test_equals_transformers(make, problem):
    model = _model(make, problem)
    inputs = model.tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model.network(**inputs).logits
    shares = logits.softmax(1) if problem.startswith("single") else logits.sigmoid()
    for batch_size in (1, 3, 32):
        found = classify(model, TEXTS, batch_size=batch_size)
        assert [each.text for each in found] == TEXTS
        for each, row in zip(found, shares):
            assert list(each.probabilities.values()) == pytest.approx(row.tolist(), abs=1e-6)
            names = list(each.probabilities)
            assert names == ["bad", "fair", "good"]
            if problem.startswith("single"):
                assert each.label == names[int(row.argmax())]
            else:
                assert each.label == [name for name, share in zip(names, row) if share > 0.5]


def test_pairs_numbers_and_texts_beyond_the_context():
    model = _model(make_tiny_bert, "regression", ["LABEL_0"])
    pair = ("the dog", "is good")
    inputs = model.tokenizer(*pair, return_tensors="pt")
    assert inputs["token_type_ids"].sum() > 0
    with torch.no_grad():
        expected = float(model.network(**inputs).logits)
    (found,) = posttrain.classify(model, pair)
    assert found.label == pytest.approx(expected, abs=1e-6) and found.probabilities == {}
    assert len(posttrain.classify(model, ["good " * 200, "bad"])) == 2
    assert posttrain.classify(model, "bad")[0].text == "bad"


def test_refusals():
    model = _model(make_tiny_bert, "single_label_classification")
    with pytest.raises(BadRequest, match="LlamaForCausalLM has no head that labels texts"):
        classify(make_tiny_llama(), TEXTS)
    with pytest.raises(BadRequest, match="Text 2 is empty"):
        classify(model, ["a", " "])
    with pytest.raises(BadRequest, match="must be a list"):
        classify(model, "a")
    with pytest.raises(BadRequest, match="batch_size"):
        classify(model, ["a"], batch_size=0)
