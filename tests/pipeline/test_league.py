"""From stores to leagues: verdicts of models beside people's, whose votes count, resuming after a kill; the step."""

from __future__ import annotations

import json

import pytest
import torch

from posttrain.align.arena import paired
from posttrain.align.feedback import FeedbackStore
from posttrain.align.feedback_items import Item
from posttrain.bench.judges import Judge, Opinion
from posttrain.bench.judging import Ruling
from posttrain.bench.task_types import Effort
from posttrain.core.errors import BadRequest
from posttrain.core.events import listen
from posttrain.models.saving import save
from posttrain.pipeline import arena
from posttrain.pipeline.arena import judge_items, judges_of, league, model_annotator
from posttrain.pipeline.report import render_report
from posttrain.pipeline.run import run_recipe
from posttrain.pipeline.single_step import single_step
from tiny_models import make_tiny_llama

EFFORT = Effort(256, 4)


class Alphabet(Judge):
    """The answer that comes first in the alphabet, whatever the order; fails after so many contests."""

    fails_after: int | None = None
    silent: str = "never"
    calls: list[int] = []

    def prepare(self, model):
        self.calls.clear()

    def opinions(self, model, contests, criterion, effort):
        self.calls.append(len(contests))
        if self.fails_after is not None and sum(self.calls) > self.fails_after:
            raise KeyboardInterrupt
        return [
            Opinion(None, {"text": "no idea"})
            if each.prompt == self.silent
            else Opinion(float(each.first < each.second))
            for each in contests
        ]


@pytest.fixture
def store(tmp_path):
    """Forty prompts with answers of a, b and c; whose name comes first in the alphabet is the better one."""
    with FeedbackStore(tmp_path / "store.db") as opened:
        opened.add_items(paired({s: [(f"p{i}", f"{s}{i}") for i in range(40)] for s in "abc"}).items)
        yield opened


def judge_by(store, judge, name="model:m", **options):
    return judge_items(store, judge, None, name, ruling=Ruling(), effort=EFFORT, **options)


def ask(store, annotator, prefers, count=None):
    for question in store.pending(annotator)[:count]:
        store.judge(question, [1 if prefers(answer) else 2 for answer in question.answers])


def test_a_model_that_judges(store):
    assert judge_by(store, Alphabet()) == 120
    found = league(store)
    assert [(row["system"], row["wins"], row["losses"]) for row in found["systems"]] == [
        *(("a", 80, 0), ("b", 40, 40), ("c", 0, 80)),
    ]
    assert found["annotators"] == ["model:m"] and found["position_bias"] is None
    assert found["prior"] == 0.5 and "a, c never won or never lost" in found["notes"][0]
    assert [(row["wins"], row["losses"]) for row in found["pairs"]] == [(40, 0)] * 3
    (judge,) = found["judges"]
    assert judge["consistency"]["consistent"] == 1 and judge["people"] is None and judge["warning"] is None
    json.dumps(found)


def test_the_signature_says_which_votes_and_how_they_were_rated(store):
    judge_by(store, Alphabet())
    made = league(store)["signature"]
    assert made.startswith("arena|criterion:overall|votes:") and "|anchor:mean|k:32|resamples:1000|seed:0|" in made
    assert league(store)["signature"] == made
    assert league(store, anchor="b", seed=3)["signature"] == made.replace("mean", "b").replace("seed:0", "seed:3")
    ask(store, "anna", lambda answer: answer.startswith("c"), 1)
    assert league(store, annotators=["model:m", "anna"])["signature"] != made


def test_peoples_votes_count_before_models(store):
    judge_by(store, Alphabet())
    ask(store, "anna", lambda answer: answer.startswith(("c", "b")), 30)
    found = league(store)
    assert found["annotators"] == ["anna"] and found["votes"] == 30
    assert found["position_bias"]["first"] + found["position_bias"]["second"] <= 30
    assert league(store, annotators=["model:m"])["votes"] == 120
    assert league(store, annotators=["model:m", "anna"])["votes"] == 150
    people = found["judges"][0]["people"]
    assert people["pairs"] == 30


def test_agreement_with_people_by_hand(store):
    """Anna agrees with the model on all of 10 pairs; ben, who judged the same, on none of them: no majority. Alone with
    carl on the side of anna there is one."""
    judge_by(store, Alphabet())
    items = [q.item for q in store.pending("anna")[:10]]
    for name, right in (("anna", True), ("ben", False), ("carl", True)):
        for item in items:
            question = store.question(item, name)
            best = min(question.answers) if right else max(question.answers)
            store.judge(question, [1 if answer == best else 2 for answer in question.answers])
        (row,) = judges_of(store)
        if name == "ben":
            assert row["people"] is None
    assert (row["people"]["pairs"], row["people"]["accuracy"], row["people"]["decisive_accuracy"]) == (10, 1, 1)
    assert row["people"]["people_alpha"] < 0.5


def test_what_was_judged_survives_an_interruption(store):
    """Sixteen pairs at a time, 32 contests; the third batch is interrupted, and the same call goes on."""
    with pytest.raises(KeyboardInterrupt):
        judge_by(store, Alphabet(fails_after=70, calls=[]))
    with FeedbackStore(store.path) as again:
        assert again.counts()[1] == 32
        assert judge_by(again, Alphabet(calls=[])) == 88
        assert judge_by(again, Alphabet(calls=[])) == 0
        assert league(again)["votes"] == 120


def test_pairs_without_a_verdict_stay_open(store):
    heard = []
    with listen(lambda event: heard.append(event.name) if event.kind == "message" else None):
        assert judge_by(store, Alphabet(silent="p3")) == 117
    assert heard == ["3 of 120 pairs got no verdict. The judge wrote, for example: 'no idea'"]
    assert len(store.pending("model:m")) == 3


def test_rankings_are_left_out(store):
    store.add_items([Item("p", ("x", "y", "z"))])
    assert judge_by(store, Alphabet()) == 120


def test_settings_are_in_the_name():
    names = {model_annotator("m", Alphabet(), Ruling(swap)) for swap in ("strict", "average")}
    assert len(names) == 2 and all(name.startswith("model:m/") for name in names)


def test_a_place_that_draws_votes_is_told(store):
    for question in store.pending("anna"):
        store.judge(question, [1, 2])
    found = league(store)
    assert found["position_bias"]["share"] == 1
    assert any("shown first won 100%" in text for text in found["notes"])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"criterion": "honest"}, "Nobody has judged"),
        ({"annotators": ["ana"]}, "Did you mean 'anna'"),
        ({"anchor": "d"}, "Nobody has compared the system 'd'"),
    ],
)
def test_refusals(store, options, sentence):
    ask(store, "anna", lambda answer: answer.startswith("a"))
    with pytest.raises(BadRequest, match=sentence):
        league(store, **options)


def test_stores_without_items_or_authors(tmp_path):
    with FeedbackStore(tmp_path / "new.db") as store:
        with pytest.raises(BadRequest, match="holds nothing to judge"):
            judge_by(store, Alphabet())
        store.add_items([Item("p", ("x", "y"))])
        judge_by(store, Alphabet())
        with pytest.raises(BadRequest, match="Nobody knows who wrote"):
            league(store)


def test_the_step(tiny_llama, tmp_path):
    """Two models answer, the first judges; a skipped step is shown like a fresh one."""
    tiny_llama.network.config.max_position_embeddings = 2048
    save(tiny_llama, tmp_path / "model")
    changed = make_tiny_llama(seed=1)
    with torch.no_grad():
        changed.network.model.norm.weight.neg_()  # the least likely token first
    save(changed, tmp_path / "other")
    other = str(tmp_path / "other")
    settings = {"between": ["base", other], "max_new_tokens": 4, "limit": 5, "swap": "average", "chat": False}
    recipe = {"name": "contest", "model": str(tmp_path / "model"), "steps": [{"judge": {"likelihood": {}, **settings}}]}
    summary = run_recipe(recipe, out=tmp_path / "run")
    step = summary["steps"][0]
    result = step["result"]
    assert {row["system"] for row in result["systems"]} == {"base", other}
    assert result["votes"] + result["equal_answers"] == 5
    assert result["judges"][0]["consistency"]["pairs"] == result["votes"]
    assert "Ratings" in render_report(summary)
    store = tmp_path / "run" / "steps" / "01-judge" / "arena.db"
    assert league(FeedbackStore(store, create=False))["votes"] == result["votes"]
    again = run_recipe(recipe, out=tmp_path / "run")
    assert again["steps"][0]["skipped"]


def test_models_that_say_the_same(tiny_llama, tmp_path):
    save(tiny_llama, tmp_path / "model")
    settings = {"between": ["base", str(tmp_path / "model")], "max_new_tokens": 2, "limit": 2, "chat": False}
    outcome = single_step("judge", settings, str(tmp_path / "model"))
    assert outcome.result["equal_answers"] == 2 and outcome.result["systems"] == []
    assert "nothing to judge" in outcome.views[0]["text"]


def test_the_step_on_a_store(store, tiny_llama, tmp_path):
    tiny_llama.network.config.max_position_embeddings = 2048
    save(tiny_llama, tmp_path / "model")
    before = store.hash()
    settings = {"score": {}, "store": str(store.path), "criterion": "helpful"}
    outcome = single_step("judge", settings, str(tmp_path / "model"))
    assert outcome.result["votes"] == 120 and store.hash() == before
    assert outcome.result["judges"][0]["consistency"] is None


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"likelihood": {}}, "compares two models at least"),
        ({"between": ["base", "base"]}, "compares two models at least"),
        ({"between": ["base", "x"], "store": "s.db"}, "not from both"),
        ({"likelyhood": {}, "between": ["base", "x"]}, "Did you mean 'likelihood'"),
        ({"store": "nowhere.db"}, "There is no feedback store"),
    ],
)
def test_steps_that_cant_be(tiny_llama, settings, sentence):
    with pytest.raises(BadRequest, match=sentence):
        single_step("judge", settings, tiny_llama)


def test_the_prefix_of_models():
    assert arena.MODEL == "model:"
