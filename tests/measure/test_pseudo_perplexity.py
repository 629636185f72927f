"""Pseudo-perplexity: against a loop that masks one token at a time in transformers' own model, in float64."""

from __future__ import annotations

import math

import pytest
import torch

from measure.masked_toy import make_tiny_masked
from posttrain.core.errors import BadRequest, Failure
from posttrain.measure.perplexity import Perplexity
from posttrain.measure.pseudo_perplexity import PseudoPerplexity

LINES = ["the dog is very good, a film", "bad", "", "the fox was a fox"]


def nats_by_loop(model, ids: list[int]) -> list[float]:
    """Negative log-probability of each token but the first and the last, each masked alone."""
    found = []
    for place in range(1, len(ids) - 1):
        masked = torch.tensor([ids])
        masked[0, place] = model.tokenizer.mask_token_id
        with torch.no_grad():
            logits = model.network(input_ids=masked, attention_mask=torch.ones_like(masked)).logits[0, place]
        found.append(-float(torch.log_softmax(logits.double(), -1)[ids[place]]))
    return found


@pytest.fixture
def lines(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text("\n".join(LINES) + "\n")
    return str(path)


@pytest.mark.parametrize("architecture", ["bert", "roberta", "modernbert"])
@pytest.mark.parametrize("batch_size", [1, 5])
def test_equals_the_loop(architecture, batch_size, lines):
    model = make_tiny_masked(architecture)
    nats = [n for text in LINES if text for n in nats_by_loop(model, model.tokenizer(text)["input_ids"])]
    found = PseudoPerplexity(text=lines, batch_size=batch_size).measure(model)
    assert found.parts["tokens_scored"] == len(nats)
    assert found.parts["nll"] == pytest.approx(sum(nats) / len(nats), rel=1e-5)
    assert found.value == pytest.approx(math.exp(sum(nats) / len(nats)), rel=1e-5)
    assert found.parts["texts"] == 3
    assert found.interval is None and not found.higher_is_better


def test_long_texts_are_cut_into_pieces(lines):
    """As one text of 25 word pieces it is read in pieces of at most 8, two of which are special."""
    model = make_tiny_masked()
    text = "\n".join(LINES) + "\n"
    ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    pieces = [[2, *ids[start : start + 6], 3] for start in range(0, len(ids), 6)]
    nats = [n for piece in pieces for n in nats_by_loop(model, piece)]
    found = PseudoPerplexity(text=lines, lines=False, window=8).measure(model)
    assert found.parts["tokens_scored"] == len(ids) == len(nats)
    assert found.parts["nll"] == pytest.approx(sum(nats) / len(nats), rel=1e-5)
    assert "window:8" in found.signature
    # the limit counts what is scored; the piece is read whole
    few = PseudoPerplexity(text=lines, lines=False, window=8, max_tokens=8).measure(model)
    assert few.parts["nll"] == pytest.approx(sum(nats[:8]) / 8, rel=1e-5)
    assert few.parts["tokens_scored"] == 8


def test_many_texts_have_an_interval(tmp_path):
    path = tmp_path / "many.txt"
    path.write_text("".join(f"the dog {'is ' * (n % 3)}good {n}\n" for n in range(25)))
    found = PseudoPerplexity(text=str(path)).measure(make_tiny_masked())
    assert found.interval[0] < found.value < found.interval[1]


def test_the_wrong_kind_of_model_is_refused_both_ways(tiny_llama, lines):
    with pytest.raises(BadRequest, match="no masked language model"):
        PseudoPerplexity(text=lines).measure(tiny_llama)
    with pytest.raises(BadRequest, match="not a causal language model"):
        Perplexity(text=lines).measure(make_tiny_masked())
    nameless = make_tiny_masked()
    nameless.tokenizer.mask_token = None
    with pytest.raises(BadRequest, match="with a mask token"):
        PseudoPerplexity(text=lines).measure(nameless)


def test_bad_windows_and_broken_models(lines):
    model = make_tiny_masked()
    with pytest.raises(BadRequest, match="longer than the model's context of 60 tokens"):
        PseudoPerplexity(text=lines, window=61).measure(model)
    with torch.no_grad():
        model.network.bert.embeddings.word_embeddings.weight.fill_(math.nan)
    with pytest.raises(Failure, match="not numbers"):
        PseudoPerplexity(text=lines).measure(model)


def test_a_model_that_has_lost_all_sense(lines):
    """A finite loss of thousands of nats has no perplexity that a floating-point number holds."""
    model = make_tiny_masked()
    with torch.no_grad():
        model.network.cls.predictions.transform.LayerNorm.weight.mul_(1e6)
    with pytest.raises(Failure, match="nats a token"):
        PseudoPerplexity(text=lines).measure(model)
