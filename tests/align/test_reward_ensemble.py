"""Ensembles of rewards: the ways to combine by hand, and what is said of disagreement."""

from __future__ import annotations

import pytest
import torch

from posttrain.align.reward import FunctionReward
from posttrain.align.reward_ensemble import Ensemble, EnsembleReward
from posttrain.core.errors import Failure

# Three members on two answers: of the first they say 1, 2 and 6 (mean 3, variance 14 / 3), of the second 5 each.
SCORES = torch.tensor([[1.0, 5.0], [2.0, 5.0], [6.0, 5.0]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 3.0),
        ({"combine": "min"}, 1.0),
        ({"combine": "mean_minus_variance"}, 3 - 14 / 3),
        ({"combine": "mean_minus_variance", "penalty": 0.5}, 3 - 7 / 3),
        ({"combine": "mean_minus_std"}, 3 - (14 / 3) ** 0.5),
        ({"combine": "mean_minus_std", "penalty": 0.0}, 3.0),
    ],
)
def test_combinations_by_hand(settings, expected):
    """Where all agree, the score is theirs in every way."""
    assert Ensemble(**settings).combined(SCORES).tolist() == pytest.approx([expected, 5.0])


def member(scale: float) -> FunctionReward:
    return FunctionReward(lambda answers, prompts: [scale * len(a) + len(p) for a, p in zip(answers, prompts)])


def test_members_judge_the_same_answers():
    """Answers of 1 and 3 characters to a prompt of 2: one says 3 and 5, the other 4 and 8; deviations 0.5 and 1.5."""
    reward = EnsembleReward([member(1.0), member(2.0)], Ensemble(combine="min"))
    judgement = reward.judge(["ab", "ab"], ["x", "xyz"])
    assert judgement.scores == [3.0, 5.0] == reward.score(["ab", "ab"], ["x", "xyz"])
    assert judgement.disagreement == pytest.approx((0.5 + 1.5) / 2)
    assert member(1.0).judge(["ab"], ["x"]).disagreement is None


def test_a_member_that_fails_is_named():
    broken = FunctionReward(lambda answers: [float("nan")] * len(answers), "broken")
    with pytest.raises(Failure, match="The reward broken gave"):
        EnsembleReward([member(1.0), broken], Ensemble()).judge(["a"], ["b"])
