"""Figures from scores: standard errors by hand, groups small and large."""

from __future__ import annotations

import math

import pytest

from posttrain.bench.item import Item
from posttrain.bench.result import Place, figure, summarize
from posttrain.bench.task_types import Reply
from posttrain.core import catalog


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
    type_ = catalog.build("task_type", {"continuation": {"prompt": "p", "continuation": "c"}})
    replies = [
        Reply({"acc": s, "perplexity": 1.0 + s}, {"prompt": "p"}, chance, cut=i)
        for i, (s, chance) in enumerate(zip(scores, chances or [None] * len(scores)))
    ]
    items = [Item({}, f"f:{i}", "t") for i in range(len(scores))]
    return summarize("own", type_, items, places, replies, "sig", 2.0)


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
