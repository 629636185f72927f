"""Cosines of mean states, and what is said of texts and ratings that don't do."""

from __future__ import annotations

import pytest
import torch

from posttrain.bench.item import Item
from posttrain.bench.question import Question
from posttrain.bench.task_types import Effort
from posttrain.bench.task_types.similarity import Similarity
from posttrain.core.errors import BadRequest

TYPE = Similarity.parse({"first": "{{ a }}", "second": "{{ b }}", "answer": "grade"})


def ask(model, *values, tokens=64):
    return TYPE.ask(model, [Question(Item(each, "f:1", "t.yaml"), "") for each in values], Effort(tokens, 1))


@pytest.mark.parametrize("tokens", [1, 12, 500])
def test_equals_one_pass_a_text(tiny_llama, tokens):
    """The reference: each text alone through the network, the mean of its last states, in double precision."""
    pairs = [("The dog sleeps.", "The fox"), ("The fox", "A language model predicts"), ("The dog", "The dog")]
    means = {}
    for text in {text for pair in pairs for text in pair}:
        ids = torch.tensor([tiny_llama.tokenizer(text)["input_ids"]])
        with torch.no_grad():
            states = tiny_llama.network(ids, output_hidden_states=True).hidden_states[-1][0].double()
        means[text] = states.mean(0)
    replies = ask(tiny_llama, *({"a": a, "b": b, "grade": "2.5"} for a, b in pairs), tokens=tokens)
    for (a, b), reply in zip(pairs, replies):
        expected = float(torch.nn.functional.cosine_similarity(means[a], means[b], dim=0))
        assert float(reply.predicted) == reply.record["cosine"] == pytest.approx(expected, abs=1e-5)
        assert (reply.scores, reply.answers, reply.chance, reply.cut) == ({}, ["2.5"], None, 0)
    assert float(replies[2].predicted) == pytest.approx(1, abs=1e-6)


def test_long_texts_are_cut_and_counted(tiny_llama):
    """The model reads 128 tokens."""
    long = "The dog sleeps. " * 60
    (reply,) = ask(tiny_llama, {"a": long, "b": "The dog", "grade": 1})
    assert reply.cut == len(tiny_llama.tokenizer(long)["input_ids"]) - 128


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"a": "x", "b": "y", "grade": "high"}, "'answer' doesn't work for f:1: 'high' is no number"),
        ({"a": "x", "b": "y", "grade": "nan"}, "'nan' is no number"),
        ({"a": "", "b": "y", "grade": 1}, "A text without any tokens has no embedding: ''"),
    ],
)
def test_refusals(tiny_llama, values, sentence):
    with pytest.raises(BadRequest, match=sentence):
        ask(tiny_llama, values)
