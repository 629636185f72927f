"""Semantic similarity: by hand on given states, and against transformers' own hidden states."""

from __future__ import annotations

import math

import pytest
import torch

from models.test_token_losses import tiny_seq2seq
from posttrain.core import events
from posttrain.core.errors import BadRequest, Failure
from posttrain.measure.semantic_similarity import SemanticSimilarity, greedy_match
from posttrain.models.language_model import LanguageModel
from posttrain.models.saving import save
from tiny_models import make_tiny_bert, make_tiny_wordpieces


@pytest.fixture
def encoder(tmp_path):
    """The folder of a tiny BERT, and the model."""
    model = make_tiny_bert()
    save(model, tmp_path / "encoder")
    return str(tmp_path / "encoder"), model


def test_by_hand():
    """Directions east, north and north-east: cosines 1, 0, and r = sqrt(1/2)."""
    r = 0.5**0.5
    east, north, between = torch.eye(2)[0], torch.eye(2)[1], torch.tensor([r, r])
    precision, recall, f1 = greedy_match(torch.stack([east, between]), torch.stack([north, east, east]))
    assert precision == pytest.approx((1 + r) / 2)
    assert recall == pytest.approx((r + 1 + 1) / 3)
    assert f1 == pytest.approx(2 * precision * recall / (precision + recall))
    assert greedy_match(torch.empty(0, 2), torch.eye(2)) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("layer", [None, 1])
def test_equals_states_of_transformers(encoder, layer):
    folder, model = encoder
    predictions = ["the dog is good", "a very bad film, was it", ""]
    references = [["a dog"], ["the film was bad", "the fox"], ["the dog"]]

    def states(text: str) -> torch.Tensor:
        with torch.no_grad():
            output = model.network(**model.tokenizer(text, return_tensors="pt"), output_hidden_states=True)
        inner = output.hidden_states[-1 if layer is None else layer][0, 1:-1]
        return inner / inner.norm(dim=-1, keepdim=True)

    expected = [
        max(greedy_match(states(text), states(each))[2] for each in right)
        for text, right in zip(predictions, references)
    ]
    assert expected[2] == 0.0
    for batch_size in (1, 32):
        found = SemanticSimilarity(model=folder, layer=layer, batch_size=batch_size).score(predictions, references)
        assert found.value == pytest.approx(sum(expected) / 3, rel=1e-5)
    assert f"encoder:{model.fingerprint()[:12]}" in found.signature


def test_comparison_and_long_texts(encoder):
    folder, _ = encoder
    right = [[f"the dog {'very ' * (n % 4)}good"] for n in range(25)]
    found = SemanticSimilarity(model=folder).compare([each[0] for each in right], ["a bad film 7"] * 25, right)
    assert found.system.value == pytest.approx(1.0) and found.difference > 0 and found.p_value < 0.01
    long = SemanticSimilarity(model=folder).score(["dog " * 100], [["dog " * 100]])
    assert long.value == pytest.approx(1.0)


def test_a_layer_that_is_not_there(encoder):
    with pytest.raises(BadRequest, match=r"layer 3 isn't one of the encoder's: 0 \(embeddings\) to 2"):
        SemanticSimilarity(model=encoder[0], layer=3).score(["a"], [["a"]])


def test_unknown_tokens_are_told(encoder):
    """Neither letter is in the vocabulary, so two different texts are one and the same unknown token."""
    told = []
    with events.listen(told.append):
        SemanticSimilarity(model=encoder[0]).score(["ж", "the dog"], [["щ"], ["the dog"]])
    (warning,) = [event.name for event in told if event.kind == "message"]
    assert warning.startswith("2 tokens are the unknown token")


def test_encoders_that_say_nothing_are_refused(tmp_path):
    model = make_tiny_bert()
    with torch.no_grad():
        model.network.embeddings.word_embeddings.weight.fill_(math.nan)
    save(model, tmp_path / "broken")
    with pytest.raises(Failure, match="The encoder's states are not numbers"):
        SemanticSimilarity(model=str(tmp_path / "broken")).score(["the dog"], [["the dog"]])
    save(LanguageModel(tiny_seq2seq("t5"), make_tiny_wordpieces(), reference="t5"), tmp_path / "t5")
    with pytest.raises(BadRequest, match="is an encoder-decoder"):
        SemanticSimilarity(model=str(tmp_path / "t5")).score(["the dog"], [["the dog"]])
