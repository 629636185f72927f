"""Advantages: how much better an action was than expected.

Generalised advantage estimation (Schulman et al., 2016, equations 11 and 16): with V = 0 after the end and the errors
delta_t = r_t + gamma V_{t+1} - V_t, A_t = delta_t + gamma lambda A_{t+1}. lambda = 1 gives the Monte-Carlo return less
V, lambda = 0 the one-step error. Left out: bootstrapping from a state in which an episode was cut off; such an episode
has ended.
"""

from __future__ import annotations

import torch


def gae(
    rewards: torch.Tensor, values: torch.Tensor, discount: float = 1.0, trace: float = 0.95
) -> tuple[torch.Tensor, torch.Tensor]:
    """Advantages and returns of one finished episode.

    Example: rewards 0, 0, 1, values 0.5, 0.4, 0.6, discount 1, trace 0.5. The errors are -0.1, 0.2, 0.4; from the end
    the advantages are 0.4, 0.2 + 0.5 * 0.4 = 0.4, -0.1 + 0.5 * 0.4 = 0.1; the returns 0.6, 0.8, 1.0.

    Args:
        rewards: [T], the reward of each action.
        values: [T], the value of the state before each action.
        discount: gamma.
        trace: lambda.

    Returns:
        Advantages [T], and advantages plus values [T], what values are trained towards.
    """
    advantages = torch.zeros_like(values)
    following, ahead = values.new_zeros(()), values.new_zeros(())
    for t in range(len(values) - 1, -1, -1):
        error = rewards[t] + discount * following - values[t]
        ahead = error + discount * trace * ahead
        advantages[t], following = ahead, values[t]
    return advantages, advantages + values


def whiten(values: torch.Tensor, mask: torch.Tensor | None = None, center: bool = True) -> torch.Tensor:
    """Scale to standard deviation 1 (of the population) and, if wished, mean 0.

    Args:
        values: [...].
        mask: [...], bool or 0/1: what counts; the rest becomes 0.
        center: Also subtract the mean; otherwise it stays as it was.

    Returns:
        [...].
    """
    mask = torch.ones_like(values) if mask is None else mask.to(values.dtype)
    count = mask.sum().clamp(min=1)
    mean = (values * mask).sum() / count
    variance = ((values - mean).square() * mask).sum() / count
    scaled = (values - mean) * torch.rsqrt(variance + 1e-8)
    return (scaled if center else scaled + mean) * mask
