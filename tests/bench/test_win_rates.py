"""Win rates, the sign test and the pull of the first place: by hand and against scipy."""

from __future__ import annotations

import pytest
from scipy.stats import binomtest

from posttrain.bench.ratings import Comparison
from posttrain.bench.win_rates import pair_records, position_bias, sign_test, wilson_interval


def test_a_record_by_hand():
    """Prompt 1: two votes for a, one for b; prompt 2: a tie; prompt 3: a. That is 3 wins, 1 tie, 1 loss: 3.5 of 5;
    of two prompts with a winner both for a: p = 2 / 4."""
    votes = [
        *(Comparison("1", "a", "b", "first"), Comparison("1", "b", "a", "second"), Comparison("1", "b", "a", "first")),
        *(Comparison("2", "b", "a", "tie"), Comparison("3", "a", "b", "first")),
    ]
    (found,) = pair_records(votes)
    assert (found.first, found.second, found.wins, found.ties, found.losses, found.prompts) == ("a", "b", 3, 1, 1, 3)
    assert found.win_rate == pytest.approx(0.7)
    assert found.interval == wilson_interval(0.7, 3)
    assert found.p_value == found.adjusted == 0.5


def test_several_pairs_are_adjusted():
    """6 of 6 is p = 2 / 64 twice; Holm doubles the smallest, and the third pair of even votes has p = 1."""
    votes = [Comparison(str(i), "a", other, "first") for i in range(6) for other in ("b", "c")]
    votes += [Comparison(str(i), "b", "c", "first" if i % 2 else "second") for i in range(6)]
    found = {(each.first, each.second): each for each in pair_records(votes)}
    assert found["a", "b"].p_value == pytest.approx(1 / 32)
    assert found["a", "b"].adjusted == pytest.approx(3 / 32)
    assert found["b", "c"].adjusted == 1


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (1, 0), (5, 5), (9, 2), (60, 41), (1000, 1200)])
def test_the_sign_test_is_the_binomial_one(wins, losses):
    expected = binomtest(wins, wins + losses).pvalue if wins + losses else 1
    assert sign_test(wins, losses) == pytest.approx(expected)


@pytest.mark.parametrize(("wins", "count"), [(0, 5), (3, 7), (7, 7), (50, 100)])
def test_wilsons_interval(wins, count):
    expected = binomtest(wins, count).proportion_ci(0.9, method="wilson")
    assert wilson_interval(wins / count, count, 0.9) == pytest.approx((expected.low, expected.high))


def test_position_bias_counts_votes_whose_order_is_known():
    votes = [Comparison("p", "a", "b", "first")] * 3 + [
        Comparison("p", "b", "a", "second"),
        Comparison("p", "a", "b", "tie"),
    ]
    votes += [Comparison("p", "a", "b", "second", ordered=False)] * 9
    found = position_bias(votes)
    assert found is not None
    assert (found.first, found.second, found.share, found.p_value) == (3, 1, 0.75, sign_test(3, 1))
    assert position_bias(votes[4:]) is None
