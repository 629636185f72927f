"""Canaries: drawn with a seed, planted, written and read."""

from __future__ import annotations

import pytest

from posttrain.core.errors import BadRequest
from posttrain.data import dataset
from posttrain.data.canaries import Canary, make_canaries, other_secrets, plant, read_canaries, write_canaries
from posttrain.data.record import Chat, Completion, Text


def test_the_seed_decides():
    assert make_canaries(5, seed=1) == make_canaries(5, seed=1)
    assert make_canaries(5, seed=1) != make_canaries(5, seed=2)
    made = make_canaries(6, length=4, alphabet="ab", repeats=(1, 4), template="x {secret} y")
    assert len({each.secret for each in made}) == 6
    assert all(set(each.secret) <= {*"ab"} and len(each.secret) == 4 for each in made)
    assert [each.repeats for each in made] == [1, 4, 1, 4, 1, 4]
    assert (made[0].space, made[0].bits) == (16, 4.0)
    assert made[0].text == f"x {made[0].secret} y"


def test_other_secrets_are_all_or_a_sample():
    canary = Canary("{secret}", "10", "01")
    assert other_secrets(canary, 3) == ["00", "01", "11"]
    many = Canary("{secret}", "12345678")
    sample = other_secrets(many, 50, seed=3)
    assert len({*sample}) == 50 and many.secret not in sample
    assert sample == other_secrets(many, 50, seed=3) != other_secrets(many, 50, seed=4)


def test_records_of_each_kind():
    canary = Canary("The code is {secret}!", "12")
    assert canary.record("text") == Text("The code is 12!")
    assert canary.record("completion", "34") == Completion("The code is ", "34!")
    chat = canary.record("chat")
    assert isinstance(chat, Chat)
    assert [turn["content"] for turn in chat.messages] == ["The code is", "12!"]


@pytest.mark.parametrize("kind", ["text", "completion", "chat"])
def test_planting(kind):
    rows = {
        "text": [{"text": f"text {i}"} for i in range(20)],
        "completion": [{"prompt": f"p {i}", "completion": "c"} for i in range(20)],
        "chat": [{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}] * 20,
    }[kind]
    data = dataset.read(rows)
    canaries = make_canaries(2, repeats=(1, 3))
    planted = plant(data, canaries, seed=5)
    assert len(planted) == 24
    for canary in canaries:
        assert planted.records.count(canary.record(kind)) == canary.repeats
    assert [each for each in planted if each.origin != "canary"] == data.records
    assert plant(data, canaries, seed=5) == planted


def test_other_kinds_hold_no_canaries():
    data = dataset.read([{"text": "a", "label": "b"}])
    with pytest.raises(BadRequest, match="among labelled records"):
        plant(data, make_canaries(1))


def test_files(tmp_path):
    path = tmp_path / "canaries.jsonl"
    canaries = make_canaries(3, repeats=(2,))
    write_canaries(canaries, path)
    assert read_canaries(path) == canaries
    for line, told in (
        ("{", ":1: not a canary"),
        ('{"template": "x"}', ":1: not a canary"),
        ('{"template": "x", "secret": "1"}', ":1: the secret isn't"),
        ('{"template": "{secret}", "secret": "x"}', ":1: the secret isn't"),
        ("", "holds no canaries"),
    ):
        path.write_text(line)
        with pytest.raises(BadRequest, match=told):
            read_canaries(path)
    with pytest.raises(BadRequest, match="posttrain canaries"):
        read_canaries(tmp_path / "none.jsonl")


@pytest.mark.parametrize(
    "settings",
    [
        {"template": "no place"},
        {"template": "{secret} {secret}"},
        {"alphabet": "a"},
        {"alphabet": "aa"},
        {"length": 0},
        {"repeats": (0,)},
        {"length": 1, "alphabet": "ab"},
    ],
)
def test_refusals(settings):
    with pytest.raises(BadRequest):
        make_canaries(2, **settings)
