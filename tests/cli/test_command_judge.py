"""`posttrain judge`: a model's verdicts in a store, by several methods, and on from where it stopped."""

from __future__ import annotations

import pytest

from posttrain.align.arena import paired
from posttrain.align.feedback import FeedbackStore
from posttrain.models.saving import save

KEYS = {
    *("store", "criterion", "annotator", "verdicts", "ties", "consistency", "people", "warning", "judged", "pending"),
}


@pytest.fixture
def store(tmp_path):
    with FeedbackStore(tmp_path / "store.db") as opened:
        opened.add_items(paired({s: [(f"p{i}", f"{s} says {i}") for i in range(6)] for s in "ab"}).items)
    return tmp_path / "store.db"


@pytest.fixture
def judge(tiny_llama, tmp_path):
    """A saved tiny model that reads enough."""
    tiny_llama.network.config.max_position_embeddings = 2048
    save(tiny_llama, tmp_path / "judge")
    return tmp_path / "judge"


def test_json_and_going_on(invoke, judge, store):
    found = invoke("judge", judge, store, "--limit", 4, "--json").json
    assert set(found) == KEYS and (found["judged"], found["pending"], found["verdicts"]) == (4, 2, 4)
    assert found["annotator"].startswith(f"model:{judge}/likelihood-")
    again = invoke("judge", judge, store, "--json").json
    assert (again["judged"], again["pending"], again["verdicts"]) == (2, 0, 6)
    assert again["consistency"]["pairs"] == 6 and again["annotator"] == found["annotator"]
    assert invoke("judge", judge, store, "--json").json["judged"] == 0


def test_methods_and_settings_are_kept_apart(invoke, judge, store):
    words = ("judge", judge, store, "--json")
    names = {
        invoke(*words, *more).json["annotator"]
        for more in (
            ["--swap", "average"],
            ["--margin", "0.1"],
            ["--method", "score", "--set", "highest=5"],
            ["--method", "score", "--set", "score.margin=2"],
            ["--name", "tiny"],
        )
    }
    assert len(names) == 5 and "model:tiny" in names
    found = invoke(*words, "--method", "score", "--set", "score.margin=100").json
    assert found["verdicts"] == found["ties"] == 6 and found["consistency"] is None


def test_texts_without_a_verdict(invoke, judge, store):
    ran = invoke("judge", judge, store, "--method", "verdict", "--set", "max_new_tokens=3", "--json")
    assert (ran.json["judged"], ran.json["pending"]) == (0, 6)
    assert "6 of 6 pairs got no verdict" in ran.err


def test_for_people(invoke, judge, store):
    shown = invoke("judge", judge, store).out
    assert "verdicts" in shown and "consistent" in shown


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["{judge}", "nowhere.db"], "There is no feedback store nowhere.db"),
        (["nosuch", "{store}"], "There is no model 'nosuch'"),
        (["{judge}", "{store}", "--method", "likelyhood"], "Did you mean 'likelihood'"),
        (["{judge}", "{store}", "--method", "reward"], "has no reward_head"),
        (["{judge}", "{store}", "--limit", "0"], "limit can't be 0"),
        (["{judge}", "{store}", "--criterion", " "], "The criterion has no name"),
        (["{judge}", "{store}", "--margin", "0.7"], "'judge.margin' doesn't fit"),
        (["{judge}", "{store}", "--set", "promt=x"], "Did you mean 'prompt'"),
    ],
)
def test_refusals(invoke, judge, store, words, sentence):
    given = [word.format(judge=judge, store=store) for word in words]
    assert sentence in invoke("judge", *given).refused(2)
