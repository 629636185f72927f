"""Generalised advantage estimation and whitening, by hand."""

from __future__ import annotations

import pytest
import torch

from posttrain.align.advantage import gae, whiten


def test_three_steps_by_hand():
    """r = 1, 0, 2; V = 0.5, 1, 1.5; gamma 0.9, lambda 0.8 (product 0.72).

    delta = 1 + 0.9 - 0.5 = 1.4; 0 + 1.35 - 1 = 0.35; 2 - 1.5 = 0.5.
    A_3 = 0.5; A_2 = 0.35 + 0.72 * 0.5 = 0.71; A_1 = 1.4 + 0.72 * 0.71 = 1.9112. Returns are A + V.
    """
    advantages, returns = gae(torch.tensor([1.0, 0.0, 2.0]), torch.tensor([0.5, 1.0, 1.5]), 0.9, 0.8)
    torch.testing.assert_close(advantages, torch.tensor([1.9112, 0.71, 0.5]))
    torch.testing.assert_close(returns, torch.tensor([2.4112, 1.71, 2.0]))


def test_the_docstrings_example():
    advantages, returns = gae(torch.tensor([0.0, 0.0, 1.0]), torch.tensor([0.5, 0.4, 0.6]), 1.0, 0.5)
    torch.testing.assert_close(advantages, torch.tensor([0.1, 0.4, 0.4]))
    torch.testing.assert_close(returns, torch.tensor([0.6, 0.8, 1.0]))


def test_the_ends_of_the_trace():
    rewards, values = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.3, -0.2, 0.7])
    monte_carlo, returns = gae(rewards, values, 1.0, 1.0)
    torch.testing.assert_close(returns, torch.tensor([6.0, 5.0, 3.0]))
    torch.testing.assert_close(monte_carlo, returns - values)
    one_step, _ = gae(rewards, values, 1.0, 0.0)
    torch.testing.assert_close(one_step, torch.tensor([1 - 0.2 - 0.3, 2 + 0.7 + 0.2, 3 - 0.7]))


def test_whitening():
    """1, 2, 3 (and a masked 100): mean 2, population variance 2/3; 1 becomes -sqrt(3/2)."""
    values, mask = torch.tensor([1.0, 2.0, 3.0, 100.0]), torch.tensor([1, 1, 1, 0])
    torch.testing.assert_close(whiten(values, mask), torch.tensor([-(1.5**0.5), 0.0, 1.5**0.5, 0.0]))
    torch.testing.assert_close(whiten(values, mask, center=False), torch.tensor([2 - 1.5**0.5, 2.0, 2 + 1.5**0.5, 0.0]))
    torch.testing.assert_close(whiten(values[:3]), torch.tensor([-(1.5**0.5), 0.0, 1.5**0.5]))
    assert float(whiten(torch.full((4,), 5.0)).abs().max()) == pytest.approx(0.0, abs=1e-3)
