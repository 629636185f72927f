"""Verdicts from two orders: strict and average by hand, judges that look at the place or at the answer only."""

from __future__ import annotations

import pytest

from posttrain.bench.judges import Contest, Judge, Opinion
from posttrain.bench.judging import Ruling, consistency, judged
from posttrain.bench.task_types import Effort

EFFORT = Effort(64, 4)


class ByPlace(Judge):
    """Always the answer shown first, with a strength."""

    strength: float = 0.8

    def prepare(self, model):
        raise NotImplementedError

    def opinions(self, model, contests, criterion, effort):
        return [Opinion(self.strength, {"first": each.first}) for each in contests]


class ByLength(ByPlace):
    """The longer answer."""

    def opinions(self, model, contests, criterion, effort):
        return [Opinion(float(len(each.first) > len(each.second))) for each in contests]


CONTESTS = [Contest("p", "long", "x"), Contest("q", "y", "longer")]


@pytest.mark.parametrize(
    ("preferences", "strict", "average"),
    [
        ([0.9, 0.6], "first", "first"),
        ([0.9, 0.2], "tie", "first"),  # the mean is 0.55
        ([0.6, 0.2], "tie", "second"),
        ([0.1, 0.4], "second", "second"),
        ([1.0, 0.0], "tie", "tie"),
        ([1.0, 0.5], "tie", "first"),
        ([1.0, None], None, None),
        ([0.7], "first", "first"),
    ],
)
def test_two_orders_make_one_verdict(preferences, strict, average):
    assert Ruling("strict").winner(preferences) == strict
    assert Ruling("average").winner(preferences) == average


def test_a_margin_makes_ties():
    assert Ruling("average", 0.1).winner([0.6, 0.58]) == "tie"
    assert Ruling("strict", 0.1).winner([0.7, 0.55]) == "tie"


def test_who_looks_at_the_place_only_decides_nothing():
    found = judged(ByPlace(), None, CONTESTS, criterion="overall", ruling=Ruling(), effort=EFFORT)
    assert [each.winner for each in found] == ["tie", "tie"]
    assert found[0].preferences == pytest.approx([0.8, 0.2])
    assert [note["first"] for note in found[0].notes] == ["long", "x"]
    steady = consistency(each.preferences for each in found)
    assert (steady.consistent, steady.biased_first, steady.biased_second) == (0, 1, 0)
    assert steady.preference_for_first == pytest.approx(0.8)
    assert "same verdict in both orders in only 0% of 2 pairs; in 100%" in steady.warning()


def test_who_looks_at_the_answers_is_consistent():
    found = judged(ByLength(), None, CONTESTS * 10, criterion="overall", ruling=Ruling(), effort=EFFORT)
    assert [each.winner for each in found] == ["first", "second"] * 10
    steady = consistency(each.preferences for each in found)
    assert (steady.pairs, steady.consistent, steady.preference_for_first) == (20, 1, 0.5)
    assert steady.warning() is None
    assert steady.to_dict()["interval"][1] == 1


def test_a_lean_is_told_though_most_is_consistent():
    steady = consistency([[0.9, 0.9]] * 70 + [[0.9, 0.1]] * 30)
    assert steady.warning() == "The judge chose the answer shown first both times in 30% of 100 pairs."


def test_consistency_needs_two_orders():
    assert consistency([[0.7], [None, 0.2]]) is None
