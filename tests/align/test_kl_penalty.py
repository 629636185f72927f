"""The KL penalty, its estimators and the adaptive coefficient, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from posttrain.align.kl_penalty import KlPenalty


@pytest.mark.parametrize(
    ("estimator", "first", "second"),
    [
        # log-ratio (reference - policy) of ln 2 and -1
        ("k1", -math.log(2), 1.0),
        ("k2", math.log(2) ** 2 / 2, 0.5),
        ("k3", 2 - 1 - math.log(2), math.exp(-1) - 1 + 1),
    ],
)
def test_rewards_by_hand(estimator, first, second):
    logprobs, reference = torch.tensor([-1.0, -1.0]), torch.tensor([-1 + math.log(2), -2.0])
    rewards = KlPenalty(estimator=estimator).rewards(3.0, logprobs, reference, 0.5)
    torch.testing.assert_close(rewards, torch.tensor([-0.5 * first, 3 - 0.5 * second]))


def test_rewards_sum_to_score_less_penalty():
    """With k1 the rewards of an answer add up to R - beta (log pi - log pi_ref)."""
    logprobs, reference = torch.tensor([-1.0, -2.0, -0.5]), torch.tensor([-1.5, -1.0, -2.0])
    rewards = KlPenalty().rewards(2.0, logprobs, reference, 0.1)
    assert float(rewards.sum()) == pytest.approx(2.0 - 0.1 * 1.0)


def test_the_adaptive_coefficient():
    """Target 6, gain 0.1: KL 6.6 is 0.1 too much, 12 is clipped at 0.2, 3 at -0.2."""
    penalty = KlPenalty(target=6.0)
    assert penalty.updated(0.2, 6.6) == pytest.approx(0.2 * 1.01)
    assert penalty.updated(0.2, 12.0) == pytest.approx(0.2 * 1.02)
    assert penalty.updated(0.2, 3.0) == pytest.approx(0.2 * 0.98)
    assert KlPenalty().updated(0.2, 50.0) == 0.2
