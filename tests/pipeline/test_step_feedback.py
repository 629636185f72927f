"""The step `feedback`: judged pairs become preference data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from posttrain.align.feedback import FeedbackStore
from posttrain.align.feedback_items import Item
from posttrain.core.errors import BadRequest
from posttrain.data import dataset
from posttrain.pipeline.run import run_recipe
from posttrain.pipeline.steps import Context
from posttrain.pipeline.steps.feedback import Feedback


@pytest.fixture
def context(tmp_path):
    """A context whose model must not be asked for."""

    def refuse(*_):
        raise AssertionError("a model was loaded")

    return Context(refuse, tmp_path / "step", 0, "base", {}, {}, refuse)


@pytest.fixture
def pairs(tmp_path):
    """Lengths of chosen and rejected in characters: 3 and 1, 1 and 2, 2 and 2."""
    path = tmp_path / "judged.jsonl"
    rows = [("p", "aaa", "b"), ("p", "c", "dd"), ("q", "ee", "ff")]
    path.write_text("".join(json.dumps(dict(zip(("prompt", "chosen", "rejected"), row))) + "\n" for row in rows))
    return str(path)


def judged_store(path, choices, criterion="overall"):
    """A store of one item ``p{i}`` for each text of choices, in which annotator k wrote `g`, `b` or `=`."""
    with FeedbackStore(path) as store:
        store.add_items([Item(f"p{i}", (f"good{i}", f"bad{i}")) for i in range(len(choices))])
        for name in range(max(map(len, choices))):
            for question in store.pending(f"annotator {name}", criterion):
                choice = choices[int(question.prompt[1:])]
                if name < len(choice):
                    best = {"g": "good", "b": "bad", "=": ""}[choice[name]]
                    store.judge(question, [1 if answer.startswith(best) else 2 for answer in question.answers])
    return str(path)


def test_pairs_from_a_file(context, pairs):
    """Of the two pairs of unequal length the longer answer won in one; mean lengths are (3 + 1 + 2) / 3 and 5 / 3."""
    step = Feedback.parse({"pairs": pairs})
    outcome = step.run(context)
    assert outcome.result == {
        "pairs": 3,
        "prompts": 2,
        "annotators": 1,
        "agreement": None,
        "ties": 0,
        "disagreements": 0,
        "chosen_characters": 2.0,
        "rejected_characters": pytest.approx(5 / 3),
        "longer_chosen_share": 0.5,
        "file": "pairs.jsonl",
        "store": "feedback.db",
    }
    assert outcome.model is None
    assert outcome.headline == "3 pairs from 1 annotator"
    assert dataset.read(context.folder / "pairs.jsonl").records == dataset.read(pairs).records
    with FeedbackStore(context.folder / "feedback.db", create=False) as store:
        assert store.counts() == (3, 3)
        assert store.annotators() == [pairs]
    assert [view["kind"] for view in outcome.views] == ["facts", "samples"]
    assert outcome.views[1]["rows"][0] == ["p", "aaa", "b"]
    again = step.run(context)  # as after an interruption
    assert again.result == outcome.result


def test_a_store_of_several_annotators(context, tmp_path):
    """Verdicts: good, bad, tie, none, good. In the coincidences 4 of the 10 values differ from their unit's mates."""
    given = judged_store(tmp_path / "given.db", ["gg", "bb", "==", "gb", "gg"])
    with FeedbackStore(given) as store:
        expected = store.agreement()
    outcome = Feedback.parse({"store": given, "samples": 0}).run(context)
    result = outcome.result
    assert (result["pairs"], result["annotators"], result["ties"], result["disagreements"]) == (3, 2, 1, 1)
    assert result["agreement"] == expected is not None
    chosen = [record.chosen for record in dataset.read(context.folder / "pairs.jsonl").records]
    assert chosen == ["good0", "bad1", "good4"]
    assert outcome.headline.startswith("3 pairs from 2 annotators, agreement α = 0.")
    kinds = [view["kind"] for view in outcome.views]
    assert kinds == ["facts", "note"] and "Krippendorff" in outcome.views[1]["text"]
    with FeedbackStore(given) as untouched:
        assert untouched.counts() == (5, 10)


def test_pairs_and_a_store_together(context, pairs, tmp_path):
    given = judged_store(tmp_path / "given.db", ["g"])
    result = Feedback.parse({"pairs": pairs, "store": given}).run(context).result
    assert (result["pairs"], result["annotators"]) == (4, 2)


def test_the_built_in_pairs_are_the_default(context):
    result = Feedback.parse(None).run(context).result
    assert result["pairs"] == len(dataset.read("builtin:preferences"))


def test_only_the_criterion_counts(context, tmp_path):
    given = judged_store(tmp_path / "given.db", ["g", "g"], criterion="helpful")
    with pytest.raises(BadRequest, match="No pair has a verdict by the criterion 'overall'"):
        Feedback.parse({"store": given}).run(context)
    assert Feedback.parse({"store": given, "criterion": "helpful"}).run(context).result["pairs"] == 2


@pytest.mark.parametrize(("count", "warned"), [(16, True), (3, False)])
def test_judges_who_like_it_long(context, tmp_path, count, warned):
    """All of n pairs: beyond 1/2 + 1/√n for n = 16 (3/4), not for n = 3 (1.08)."""
    path = tmp_path / "judged.jsonl"
    rows = [{"prompt": f"p{i}", "chosen": "long answer", "rejected": "short"} for i in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    outcome = Feedback.parse({"pairs": str(path)}).run(context)
    assert outcome.result["longer_chosen_share"] == 1
    assert any("The longer answer won in 100% of pairs" in view.get("text", "") for view in outcome.views) == warned


def test_messages_are_shown_and_measured_by_their_text(context, tmp_path):
    path = tmp_path / "judged.jsonl"
    sides = {side: [{"role": "assistant", "content": side}] for side in ("chosen", "rejected")}
    path.write_text(json.dumps({"prompt": [{"role": "user", "content": "q"}], **sides}) + "\n")
    outcome = Feedback.parse({"pairs": str(path)}).run(context)
    assert (outcome.result["chosen_characters"], outcome.result["rejected_characters"]) == (6, 8)
    assert outcome.views[-1]["rows"] == [["q", "chosen", "rejected"]]
    assert dataset.read(context.folder / "pairs.jsonl").records == dataset.read(path).records


def test_inputs_follow_the_content(context, pairs, tmp_path):
    given = judged_store(tmp_path / "given.db", ["g"])
    step = Feedback.parse({"pairs": pairs, "store": given})
    before = step.inputs(context)
    assert step.inputs(context) == before
    judged_store(given, ["gg"])
    after = step.inputs(context)
    assert after["data"] == before["data"] and after["store"] != before["store"]
    assert set(Feedback.parse({"store": given}).inputs(context)) == {"store"}


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"store": "none.db"}, "There is no feedback store none.db"),
        ({"pairs": "none.jsonl"}, "none.jsonl doesn't exist"),
        ({"pairs": "builtin:handbook"}, "make a record of kind preference"),
    ],
)
def test_bad_requests(context, tmp_path, monkeypatch, settings, sentence):
    monkeypatch.chdir(tmp_path)
    step = Feedback.parse(settings)
    with pytest.raises(BadRequest, match=sentence):
        step.inputs(context)
    with pytest.raises(BadRequest, match=sentence):
        step.run(context)


def test_in_a_recipe(pairs, tiny_llama, tmp_path):
    from posttrain.models.saving import save

    save(tiny_llama, tmp_path / "model")
    recipe = {"model": str(tmp_path / "model"), "steps": [{"feedback": {"pairs": pairs}}]}
    summary = run_recipe(recipe, out=tmp_path / "run")
    (step,) = summary["steps"]
    assert step["model"] is None
    assert not Path(step["result"]["file"]).is_absolute()
    assert (tmp_path / "run/steps/01-feedback" / step["result"]["file"]).exists()
    assert "What was preferred" in (tmp_path / "run/report.html").read_text()
    (again,) = run_recipe(recipe, out=tmp_path / "run")["steps"]
    assert again["skipped"]
