"""Ratings: worked by hand for two and three systems, against logistic regression and a general optimizer."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from posttrain.bench.ratings import Comparison, online_elo, rate
from posttrain.core.errors import BadRequest


def votes(first, second, wins=0, ties=0, losses=0, prompt="p"):
    outcomes = ["first"] * wins + ["tie"] * ties + ["second"] * losses
    return [Comparison(prompt, first, second, winner) for winner in outcomes]


def points(found):
    return {each.system: each.rating for each in found.ratings}


def drawn(seed, prompts=30, each=6, ties=0.0):
    """Votes on four systems of strengths 1, 0.5, 0, −1."""
    generator = np.random.default_rng(seed)
    strengths = {"a": 1.0, "b": 0.5, "c": 0.0, "d": -1.0}
    found = []
    for prompt in range(prompts):
        for _ in range(each):
            one, other = generator.choice(list(strengths), 2, replace=False)
            win = 1 / (1 + math.exp(strengths[other] - strengths[one]))
            choice = "tie" if generator.random() < ties else "first" if generator.random() < win else "second"
            found.append(Comparison(str(prompt), str(one), str(other), choice))
    return found


def test_two_systems_by_hand():
    """Three wins of four are odds of 3: 400 log10 3 = 190.85 points apart, and P = 3/4."""
    found = rate(votes("a", "b", wins=3, losses=1))
    gap = 400 * math.log10(3)
    assert points(found) == pytest.approx({"a": 1000 + gap / 2, "b": 1000 - gap / 2})
    assert found.probabilities("a", "b") == pytest.approx((0.75, 0.0, 0.25))
    assert (found.prior, found.unbounded, found.ties) == (0.0, [], 0.0)
    (best, last) = found.ratings
    assert (best.wins, best.ties, best.losses, last.wins) == (3, 0, 1, 1)
    assert best.interval is None and best.rank is None and found.resamples == 0
    assert points(rate(votes("a", "b", wins=3, losses=1), anchor="b"))["b"] == 1000


def test_ties_of_two_systems_by_hand():
    """4 wins, 4 ties, 1 loss: two parameters reproduce the shares. The odds are 4, and ν = 4 / √(4 · 1) = 2."""
    found = rate(votes("a", "b", wins=4, ties=4, losses=1))
    assert found.probabilities("a", "b") == pytest.approx((4 / 9, 4 / 9, 1 / 9))
    assert found.ties == pytest.approx(2)
    assert points(found)["a"] - points(found)["b"] == pytest.approx(400 * math.log10(4))


def test_a_circle_of_three_is_even():
    circle = votes("a", "b", wins=2) + votes("b", "c", wins=2) + votes("c", "a", wins=2)
    assert points(rate(circle)) == pytest.approx({"a": 1000, "b": 1000, "c": 1000})


def test_three_systems_by_hand():
    """a : b as 2 : 1 and b : c as 2 : 1, and a and c never met: odds multiply along the chain."""
    found = rate(votes("a", "b", wins=2, losses=1) + votes("b", "c", wins=2, losses=1))
    assert found.probabilities("a", "c") == pytest.approx((4 / 5, 0, 1 / 5))


def test_without_ties_it_is_logistic_regression():
    comparisons = drawn(0)
    systems = ["a", "b", "c", "d"]
    rows = np.array([[(c.first == s) * 1.0 - (c.second == s) for s in systems] for c in comparisons])
    model = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-12, solver="newton-cg", max_iter=1000)
    strengths = model.fit(rows, [c.winner == "first" for c in comparisons]).coef_[0]
    expected = 1000 + 400 / math.log(10) * (strengths - strengths.mean())
    assert [points(rate(comparisons))[s] for s in systems] == pytest.approx(list(expected), abs=1e-6)


def test_with_ties_it_is_the_likelihoods_maximum():
    """Davidson's likelihood written down directly, and a general optimizer."""
    comparisons = drawn(1, ties=0.3)
    systems = ["a", "b", "c", "d"]

    def loss(values):
        total = 0.0
        for c in comparisons:
            one, other = (math.exp(values[systems.index(name)]) for name in (c.first, c.second))
            tie = math.exp(values[-1]) * math.sqrt(one * other)
            total -= math.log({"first": one, "second": other, "tie": tie}[c.winner] / (one + other + tie))
        return total + values[:-1].sum() ** 2

    best = minimize(loss, np.zeros(5), method="BFGS", options={"gtol": 1e-8})
    found = rate(comparisons)
    assert [points(found)[s] for s in systems] == pytest.approx(list(1000 + 400 / math.log(10) * best.x[:4]), abs=1e-3)
    assert found.ties == pytest.approx(math.exp(best.x[4]), abs=1e-5)


@pytest.mark.parametrize(
    "comparisons",
    [
        votes("a", "b", wins=3),
        votes("a", "b", wins=3, ties=2),  # ties alone don't bound it
        votes("a", "b", ties=4),
        votes("a", "b", wins=1, losses=1) + votes("b", "c", wins=2),
    ],
)
def test_what_has_no_maximum_gets_the_prior(comparisons):
    found = rate(comparisons)
    assert found.prior == 0.5
    assert all(math.isfinite(value) for value in points(found).values())
    wider = rate(comparisons, prior=0.01)
    spread = [max(p.values()) - min(p.values()) for p in (points(wider), points(found))]
    assert spread[0] >= spread[1]


def test_the_prior_by_hand():
    """3 wins with half a win and half a loss more: odds of 3.5 to 0.5."""
    found = rate(votes("a", "b", wins=3))
    assert found.probabilities("a", "b")[0] == pytest.approx(3.5 / 4)
    assert found.unbounded == ["a", "b"]
    assert points(rate(votes("a", "b", ties=4))) == pytest.approx({"a": 1000, "b": 1000})


def test_a_tie_and_mutual_wins_have_a_maximum():
    for comparisons in (
        votes("a", "b", wins=2, ties=1, losses=1),
        votes("a", "b", wins=1) + votes("b", "c", wins=1) + votes("c", "a", wins=1) + votes("a", "b", ties=1),
    ):
        assert rate(comparisons).prior == 0


def test_systems_that_never_met_are_refused():
    apart = votes("a", "b", wins=1, losses=1) + votes("c", "d", wins=1, losses=1)
    with pytest.raises(BadRequest, match="2 groups that were never compared with each other: a, b; c, d"):
        rate(apart)


@pytest.mark.parametrize(
    ("comparisons", "options", "sentence"),
    [
        ([], {}, "no judgements"),
        (votes("a", "a", wins=1), {}, "compared with itself"),
        (votes("anna", "ben", wins=1), {"anchor": "bne"}, "Did you mean 'ben'"),
    ],
)
def test_refusals(comparisons, options, sentence):
    with pytest.raises(BadRequest, match=sentence):
        rate(comparisons, **options)


@pytest.mark.parametrize("options", [{"prior": 0}, {"resamples": 0}, {"confidence": 1}])
def test_settings_out_of_range(options):
    with pytest.raises(ValueError, match="out of range"):
        rate(votes("a", "b", wins=1, losses=1), **options)


def test_prompts_are_drawn_and_not_votes():
    """Ten votes on each prompt that all say the same are no more than one: copies widen nothing and narrow nothing."""
    once = [c for i in range(40) for c in votes("a", "b", wins=int(i % 3 > 0), losses=int(i % 3 == 0), prompt=str(i))]
    single, copied = rate(once), rate([c for c in once for _ in range(10)])
    assert copied.ratings[0].interval == pytest.approx(single.ratings[0].interval, abs=1e-6)
    low, high = single.ratings[0].interval
    assert low < single.ratings[0].rating < high
    assert rate(once).ratings == single.ratings  # the seed decides


def test_intervals_hold_the_truth_and_ranks_follow_them():
    found = rate(drawn(2, prompts=60))
    by_name = {each.system: each for each in found.ratings}
    assert by_name["a"].rank == 1 and by_name["d"].rank == 4
    mean = 0.125
    for name, strength in {"a": 1.0, "b": 0.5, "c": 0.0, "d": -1.0}.items():
        low, high = by_name[name].interval
        assert low - 40 < 1000 + 400 / math.log(10) * (strength - mean) < high + 40


def test_draws_that_need_the_prior_are_counted():
    rare = [c for i in range(29) for c in votes("a", "b", wins=1, prompt=str(i))] + votes("a", "b", losses=1)
    found = rate(rare)
    # The one loss is missing in a draw with probability (29 / 30)^30 = 0.362.
    assert found.prior == 0
    assert found.penalized_resamples / 1000 == pytest.approx(0.362, abs=0.06)


def test_online_elo_by_hand():
    """Equal systems: E = 1/2, so a win moves 16 points. Then E = 1 / (1 + 10^(−32 / 400)) = 0.5459 and b's win moves
    32 · 0.5459 = 17.47 back."""
    one = votes("a", "b", wins=1)
    assert online_elo(one, orders=1) == pytest.approx({"a": 1016, "b": 984})
    expected = 1 / (1 + 10 ** (-32 / 400))
    both = online_elo(one + votes("a", "b", losses=1), orders=1)
    assert both["a"] == pytest.approx(1016 - 32 * expected)
    averaged = online_elo(one + votes("a", "b", losses=1), orders=2000)
    assert averaged == pytest.approx({"a": 1000, "b": 1000}, abs=0.2)
    assert online_elo(votes("a", "b", ties=3), orders=1) == pytest.approx({"a": 1000, "b": 1000})
    with pytest.raises(ValueError, match="out of range"):
        online_elo(one, k=0)
