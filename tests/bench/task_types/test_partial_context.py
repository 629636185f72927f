"""Choosing by the likelihood of what follows a blank."""

from __future__ import annotations

import pytest

from posttrain.bench.item import Item
from posttrain.bench.likelihood import likelihoods
from posttrain.bench.question import Question
from posttrain.bench.task_types import Effort
from posttrain.bench.task_types.partial_context import PartialContext
from posttrain.core.errors import BadRequest

TYPE = PartialContext.parse(
    {"contexts": ["{{ s }} {{ a }}", "{{ s }} {{ b }}"], "continuation": "sleeps.", "answer": "right"}
)


@pytest.mark.parametrize("right", [0, 1])
def test_only_the_continuation_is_scored(tiny_llama, right):
    item = Item({"s": "I think", "a": "the dog", "b": "a quick brown fox", "right": right}, "f:1", "t")
    (reply,) = TYPE.ask(tiny_llama, [Question(item, "Who? ")], Effort(64, 1))
    pairs = [("Who? I think the dog", " sleeps."), ("Who? I think a quick brown fox", " sleeps.")]
    expected = [each.logprob for each in likelihoods(tiny_llama, pairs)]
    assert reply.record["logprobs"] == pytest.approx(expected, abs=1e-5)
    assert reply.scores == {"acc": float(expected[right] == max(expected))}
    assert reply.chance == 0.5


def test_an_answer_that_is_no_context():
    item = Item({"s": "I", "a": "a", "b": "b", "right": 2}, "f:1", "t.yaml")
    with pytest.raises(BadRequest, match=r"t.yaml: 'answer' doesn't work for f:1: 2 is none of the 2 contexts"):
        TYPE.solved(item)
