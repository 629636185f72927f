"""Figures from scores: standard errors by hand, groups small and large."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import f1_score

from posttrain.bench.item import Item
from posttrain.bench.result import Place, figure, summarize
from posttrain.bench.task import Task
from posttrain.bench.task_types import Reply
from posttrain.core import events
from posttrain.core.errors import BadRequest


def test_a_mean():
    """1, 0, 0, 1: deviation sqrt(4 * 0.25 / 3), over the root of 4 items."""
    found = figure([1, 0, 0, 1], ["a"] * 4, perplexity=False)
    assert found.value == 0.5
    assert found.stderr == pytest.approx(math.sqrt(1 / 3) / 2)
    assert found.interval is None  # too few items
    assert found.n == 4


def test_a_single_item_has_no_error():
    assert figure([1], ["a"], False).stderr is None


def test_pooled_over_members():
    """Members of 3 and 2 items, means 1/3 and 1/2: squares about the means sum to 2/3 and 1/2, over 5 - 2 and 5."""
    found = figure([1, 0, 0, 1, 0], ["a", "a", "a", "b", "b"], False)
    assert found.stderr == pytest.approx(math.sqrt((2 / 3 + 1 / 2) / 3 / 5))


def test_members_of_one_item_each_are_taken_together():
    found = figure([1, 0, 0, 1], ["a", "b", "c", "d"], False)
    assert found.stderr == pytest.approx(math.sqrt(1 / 3) / 2)


def test_an_interval_holds_the_value():
    found = figure([1, 0] * 50, ["a"] * 100, False)
    assert found.interval is not None
    low, high = found.interval
    assert 0.38 < low < 0.42 and 0.58 < high < 0.62  # 0.5 -+ 1.96 * 0.05


def test_a_perplexity():
    """exp of the mean of 1 and 3 nats; the error of the mean is sqrt(2) / sqrt(2), times the value."""
    found = figure([1.0, 3.0], ["a", "a"], perplexity=True)
    assert found.value == pytest.approx(math.exp(2))
    assert found.stderr == pytest.approx(math.exp(2))
    many = figure([1.0, 3.0] * 20, ["a"] * 40, perplexity=True)
    assert many.interval is not None
    assert many.interval[0] < math.exp(2) < many.interval[1]


def summary(places, scores, chances=None):
    task = task_of(type={"continuation": {"prompt": "p", "continuation": "c"}})
    replies = [
        Reply({"acc": s, "perplexity": 1.0 + s}, {"prompt": "p"}, chance, cut=i)
        for i, (s, chance) in enumerate(zip(scores, chances or [None] * len(scores)))
    ]
    items = [Item({}, f"f:{i}", "t") for i in range(len(scores))]
    return summarize("own", task, items, places, replies, "sig", 2.0)


def test_a_task_without_members():
    found = summary([Place(None, None)] * 4, [1, 1, 1, 0], [0.25, 0.25, 0.5, 0.5])
    assert (found.score, found.n, found.metric) == (0.75, 4, "acc")
    assert found.chance == 0.375
    assert (found.members, found.categories, found.macro) == ([], [], None)
    assert found.cut == 3
    assert found.figures["perplexity"].value == pytest.approx(math.exp(1.75))
    assert found.items[2] == {
        "task": "own",
        "origin": "f:2",
        "prompt": "p",
        "scores": {"acc": 1, "perplexity": 2.0},
        "cut_tokens": 2,
    }
    shown = found.to_dict()
    assert shown["score"] == 0.75 and shown["higher_is_better"] is True
    assert set(shown["metrics"]) == {"acc", "perplexity"}
    assert "members" not in shown and "items" not in shown


def test_members_and_categories():
    """Members with means 1, 0 and 1/2: over all items 3/5, over members 1/2."""
    places = [Place("a", "x"), Place("a", "x"), Place("b", "x"), Place("c", "y"), Place("c", "y")]
    found = summary(places, [1, 1, 0, 1, 0])
    assert found.score == 0.6
    assert found.macro is not None
    assert found.macro["acc"] == pytest.approx(0.5)
    assert found.macro["perplexity"] == pytest.approx((math.exp(2) + math.exp(1) + math.exp(1.5)) / 3)
    assert [(row["name"], row["score"], row["n"], row["category"]) for row in found.members] == [
        ("a", 1.0, 2, "x"),
        ("b", 0.0, 1, "x"),
        ("c", 0.5, 2, "y"),
    ]
    assert [(row["name"], row["score"], row["n"]) for row in found.categories] == [
        ("x", pytest.approx(2 / 3), 3),
        ("y", 0.5, 2),
    ]
    assert found.chance is None
    assert found.items[4]["member"] == "c"
    # b has a single item: squares about the means are 0, 0 and 1/2, over 5 - 3 and 5.
    assert found.stderr == pytest.approx(math.sqrt(0.5 / 2 / 5))


def task_of(**more):
    """A task of two choices whose own metrics are as given."""
    type_ = {"multiple_choice": {"prompt": "p", "choices": ["no", "yes"], "answer": "right"}}
    given = {"summary": "s", "version": "1", "license": "l", "homepage": "h", "split": "test", "type": type_}
    return Task.parse({**given, "data": {"test": [{"files": ["f"]}]}, **more})


def answered(task, pairs, places=None, records=None):
    """What comes of predictions and right answers, both texts."""
    replies = [
        Reply({"acc": float(p == a)}, record, 0.5, 0, p, [a])
        for (p, a), record in zip(pairs, records or [{}] * len(pairs))
    ]
    items = [Item({"kind": "odd" if i % 2 else "even"}, f"f:{i}", "t.yaml") for i in range(len(pairs))]
    return summarize("own", task, items, places or [Place(None, None)] * len(pairs), replies, "sig", 1.0)


MCC = {"mcc": {"classification": {"score_by": "mcc"}}}
F1 = {"f1": {"classification": {"score_by": "f1", "positive": "yes"}}}
# Two yes found, one missed, one false alarm, two no found.
SIX = [("yes", "yes")] * 2 + [("no", "yes"), ("yes", "no")] + [("no", "no")] * 2


def test_metrics_of_all_items_together():
    """F1 is 2 * 2 / (2 * 2 + 1 + 1), Matthews' correlation (2 * 2 - 1 * 1) / sqrt(3 * 3 * 3 * 3)."""
    found = answered(task_of(corpus_metrics={**MCC, **F1}, score="mcc"), SIX)
    assert found.metric == "mcc"
    assert found.score == pytest.approx(1 / 3)
    assert found.figures["f1"].value == pytest.approx(2 / 3)
    assert list(found.figures) == ["mcc", "acc", "f1"]
    assert (found.stderr, found.interval, found.n) == (None, None, 6)  # too few for a bootstrap
    assert found.chance is None


def test_standard_errors_are_those_of_draws_of_the_items():
    """Beside scikit-learn's F1 on 2000 draws of the same 60 items, as lm-evaluation-harness estimates it."""
    pairs = SIX * 10
    found = answered(task_of(corpus_metrics=F1), pairs).figures["f1"]
    draws = np.random.default_rng(5).integers(0, 60, size=(2000, 60))
    is_yes = np.array([[p == "yes", a == "yes"] for p, a in pairs])
    figures = [f1_score(is_yes[draw, 1], is_yes[draw, 0]) for draw in draws]
    assert found.stderr == pytest.approx(np.std(figures, ddof=1), rel=0.1)
    assert found.interval == pytest.approx(np.quantile(figures, [0.025, 0.975]), abs=0.02)


def test_micro_and_macro_of_metrics_that_are_no_means():
    """One member has F1 2/3, the other 0 of one item; all seven together 2 * 2 / (2 * 2 + 1 + 2)."""
    places = [Place("a", "x")] * 6 + [Place("b", "y")]
    found = answered(task_of(corpus_metrics=F1, score="f1"), [*SIX, ("no", "yes")], places)
    assert found.score == pytest.approx(4 / 7)
    assert found.macro is not None and found.macro["f1"] == pytest.approx(1 / 3)
    assert [row["score"] for row in found.members] == [pytest.approx(2 / 3), 0]
    assert [row["score"] for row in found.categories] == [pytest.approx(2 / 3), 0]


def test_a_metric_without_a_value_is_left_out_and_told():
    """Nobody said yes and nobody should: there is no F1 of it. Where it is the score, that is an error."""
    said = []
    with events.listen(lambda event: said.append(event.name)):
        found = answered(task_of(corpus_metrics=F1), [("no", "no")] * 3)
    assert list(found.figures) == ["acc"]
    assert said == [
        "own: there is no f1 for these 3 items. No row is 'yes' or predicted as it, so this class has no scores."
    ]
    with pytest.raises(BadRequest, match="own: there is no f1 for these 3 items"):
        answered(task_of(corpus_metrics=F1, score="f1"), [("no", "no")] * 3)


def test_correlations_of_predicted_numbers():
    """1, 2, 3 and 4 with 2, 1, 4, 3: ranks agree to 1 - 6 * 4 / (4 * 15) = 0.6. All alike have no correlation."""
    task = task_of(corpus_metrics={"spearman": {"spearman": {}}})
    found = answered(task, [("1", "2"), ("2", "1"), ("3", "4"), ("4", "3")])
    assert found.figures["spearman"].value == pytest.approx(0.6)
    assert "spearman" not in answered(task, [("1", "2"), ("1", "1")]).figures


def test_metrics_of_items_by_expressions():
    """Items that don't count are in neither value nor n; what the type recorded and its scores are seen."""
    made = {
        "odd": "acc if kind == 'odd' else none",
        "distance": "(logprobs[0] - logprobs[1]) | abs",
        "first": "logprobs[0] > logprobs[1]",
    }
    records = [{"logprobs": [-1.0, -i]} for i in range(4)]
    pairs = [("no", "no"), ("yes", "no"), ("no", "yes"), ("yes", "yes")]
    task = task_of(item_metrics=made, lower_is_better=["distance"], score="first", chance=0.5)
    found = answered(task, pairs, records=records)
    assert (found.figures["odd"].value, found.figures["odd"].n) == (0.5, 2)
    assert found.figures["distance"].value == 1.0  # 1, 0, 1 and 2
    assert (found.metric, found.score, found.chance) == ("first", 0.5, 0.5)
    assert found.to_dict()["higher_is_better"] is True
    assert found.lower_is_better == {"distance"}
    assert found.items[0]["scores"] == {"acc": 1.0, "odd": None, "distance": 1.0, "first": 0.0}


@pytest.mark.parametrize(
    ("expression", "sentence"),
    [("kind", "it must give a number or none, not 'even'"), ("accuracy", "'accuracy' is undefined")],
)
def test_item_metrics_that_don_t_work(expression, sentence):
    with pytest.raises(BadRequest, match=f"t.yaml: 'item_metrics.own' doesn't work for f:0: .*{sentence}"):
        answered(task_of(item_metrics={"own": expression}), SIX)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"score": "f1"}, "there is no metric f1; there are acc"),
        ({"lower_is_better": ["loss"]}, "there is no metric loss"),
        ({"item_metrics": {"acc": "1"}}, "two metrics are called acc"),
        ({"corpus_metrics": {"f1": {"classification": {"score_by": "f1"}}}}, "name it: `positive`"),
        ({"corpus_metrics": {"p": {"perplexity": {"text": "builtin:prose"}}}}, "the metric of p compares no texts"),
        ({"corpus_metrics": {"f1": {"clasification": {}}}}, "Did you mean 'classification'"),
    ],
)
def test_tasks_that_measure_what_they_can_t(more, sentence):
    with pytest.raises(BadRequest, match=sentence):
        task_of(**more)
