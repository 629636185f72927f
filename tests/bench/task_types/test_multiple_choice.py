"""Choosing by likelihood: what each metric compares, by hand on given log-likelihoods."""

from __future__ import annotations

import math

import pytest

from posttrain.bench.item import Item
from posttrain.bench.likelihood import Likelihood
from posttrain.bench.question import Question
from posttrain.bench.task_types import Effort, multiple_choice
from posttrain.bench.task_types.multiple_choice import MultipleChoice
from posttrain.core.errors import BadRequest


@pytest.fixture
def reply(monkeypatch):
    """The reply to one item when continuations have given log-likelihoods, by their text."""

    def ask(values, known, cut=0, **settings):
        asked = []

        def likelihoods(model, pairs, tokens_per_pass):
            asked.extend(pairs)
            return [Likelihood(known[pair if pair in known else pair[1]], False, 1, cut) for pair in pairs]

        monkeypatch.setattr(multiple_choice, "likelihoods", likelihoods)
        type_ = MultipleChoice.parse({"prompt": "{{ q }}", "choices": "c", **settings})
        (found,) = type_.ask(None, [Question(Item(values, "f:1", "t.yaml"), "Before. ")], Effort(8, 1))
        return found, asked

    return ask


def test_lengths_decide_differently(reply):
    """Log-likelihoods -4, -6, -6.4 of `ab`, `äö`, `abcdefgh`: the first is likeliest, divided by characters, -2, -3 and
    -0.8, the third; divided by bytes, -2, -1.5 and -0.8, the third too."""
    values = {"q": "Q", "c": ["ab", "äö", "abcdefgh"], "a": 2}
    known = {" ab": -4.0, " äö": -6.0, " abcdefgh": -6.4}
    found, asked = reply(values, known, answer="a", metrics=["acc_norm", "acc", "acc_bytes"])
    assert asked == [("Before. Q", " ab"), ("Before. Q", " äö"), ("Before. Q", " abcdefgh")]
    assert found.scores == {"acc_norm": 1.0, "acc": 0.0, "acc_bytes": 1.0}
    assert found.record["chosen"] == {"acc_norm": 2, "acc": 0, "acc_bytes": 2}
    assert found.record["logprobs"] == [-4.0, -6.0, -6.4]
    assert found.chance == pytest.approx(1 / 3)


def test_characters_are_no_bytes(reply):
    """-3 and -5 of `ab` and `äöü`: by characters -1.5 and -1.67, by bytes -1.5 and -0.83."""
    found, _ = reply(
        {"q": "Q", "c": ["ab", "äöü"], "a": 1},
        {" ab": -3.0, " äöü": -5.0},
        answer="a",
        metrics=["acc_norm", "acc_bytes"],
    )
    assert found.record["chosen"] == {"acc": 0, "acc_norm": 0, "acc_bytes": 1}
    assert found.scores == {"acc_norm": 0.0, "acc_bytes": 1.0}


def test_mutual_information(reply):
    """-2 and -3 with the prompt, -1 and -5 without: what the prompt adds is -1 and 2."""
    known = {("Before. Q", " x"): -2.0, ("Before. Q", " y"): -3.0, ("", " x"): -1.0, ("", " y"): -5.0}
    found, asked = reply({"q": "Q", "c": ["x", "y"], "a": 1}, known, answer="a", metrics=["acc_mutual_info", "acc"])
    assert found.scores == {"acc_mutual_info": 1.0, "acc": 0.0}
    assert len(asked) == 4


def test_several_right_choices(reply):
    """Probabilities 1/2, 1/4, 1/4, of which the first and third are right: mc2 is 3/4, and the first counts for acc."""
    known = {" x": math.log(0.02), " y": math.log(0.01), " z": math.log(0.01)}
    values = {"q": "Q", "c": ["x", "y", "z"], "l": [1, 0, 1]}
    found, _ = reply(values, known, labels="l", metrics=["mc2", "acc"])
    assert found.scores["mc2"] == pytest.approx(0.75)
    assert found.scores["acc"] == 1.0
    assert found.record["right"] == [0, 2]
    assert found.chance == pytest.approx(2 / 3)


def test_very_unlikely_choices_have_shares_too(reply):
    """exp(-2000) is no float64, the shares of -2000 and -2000 - ln 3 are 3/4 and 1/4."""
    known = {" x": -2000.0, " y": -2000.0 - math.log(3)}
    found, _ = reply({"q": "Q", "c": ["x", "y"], "l": [0, 1]}, known, labels="l", metrics=["mc2"])
    assert found.scores["mc2"] == pytest.approx(0.25)


def test_ties_go_to_the_first(reply):
    found, _ = reply({"q": "Q", "c": ["x", "y"], "a": 0}, {" x": -1.0, " y": -1.0}, answer="a")
    assert found.scores == {"acc": 1.0}


def test_an_answer_may_be_the_text(reply):
    found, _ = reply({"q": "Q", "c": ["x", "y"], "a": "y"}, {" x": -2.0, " y": -1.0}, answer="a", delimiter=" ")
    assert found.record["right"] == [1]


def test_choices_may_be_templates_and_the_delimiter_something_else(reply):
    found, asked = reply(
        {"q": "Q", "a": 0},
        {"\n1. Q": -1.0, "\n2": -2.0},
        choices=["1. {{ q }}", "2"],
        answer="a",
        delimiter="\n",
        cut=5,
    )
    assert [pair[1] for pair in asked] == ["\n1. Q", "\n2"]
    assert found.cut == 5


@pytest.mark.parametrize(
    ("values", "settings", "sentence"),
    [
        ({"c": ["x", "y"], "a": 2}, {"answer": "a"}, "'answer' doesn't work for f:1: 2 is none of the 2 choices"),
        ({"c": ["x", "y"], "a": "z"}, {"answer": "a"}, "'z' is none of the 2 choices"),
        ({"c": ["x", "y"], "a": True}, {"answer": "a"}, "True is none of the 2 choices"),
        (
            {"c": "xy", "a": 0},
            {"answer": "a"},
            "'choices' doesn't work for f:1: it must give a list of texts, not 'xy'",
        ),
        ({"c": ["x", ""], "a": 0}, {"answer": "a"}, "none may be empty"),
        ({"c": [], "a": 0}, {"answer": "a"}, "there must be some"),
        (
            {"c": ["x", "y"], "l": [0, 0]},
            {"labels": "l"},
            "'labels' doesn't work for f:1: it must give 1 or 0 for each",
        ),
        ({"c": ["x", "y"], "l": [1]}, {"labels": "l"}, "for each of 2 choices"),
    ],
)
def test_items_that_don_t_fit(reply, values, settings, sentence):
    with pytest.raises(BadRequest) as raised:
        reply({"q": "Q", **values}, {}, **settings)
    assert sentence in raised.value.problem


def test_solved_takes_the_first_right_choice():
    type_ = MultipleChoice.parse({"prompt": "{{ q }}", "choices": "c", "labels": "l"})
    assert type_.solved(Item({"q": "Q:", "c": ["x", "y", "z"], "l": [0, 1, 1]}, "f:1", "t")).text == "Q: y"
