"""The price of leaving the reference: a per-token KL penalty in the reward, its weight fixed or controlled.

The reward of token t is -beta k(t), and the score of the whole answer is added at the last token (Ziegler et al., 2019,
equation 2; k is one of Schulman's estimators). The controller of section 2.2 steers beta towards a wanted KL:

    e = clip((KL - target) / target, -0.2, 0.2),    beta <- beta (1 + gain e).
"""

from __future__ import annotations

import torch
from pydantic import Field

from posttrain.core.settings import Settings
from posttrain.ops.divergence import Estimator, estimate_kl


class KlPenalty(Settings):
    """Weight and estimator of the penalty."""

    coefficient: float = Field(0.05, ge=0)
    """beta, the price of one nat; where a target is given, only at the start."""

    target: float | None = Field(None, gt=0)
    """Wanted KL from the reference, in nats an answer; null keeps the coefficient."""

    budget: float | None = Field(None, gt=0)
    """Most KL from the reference, in nats an answer; a rollout beyond it isn't learned from and ends the training."""

    gain: float = Field(0.1, gt=0)
    """How fast the coefficient follows, for each rollout."""

    estimator: Estimator = "k1"
    """Estimate of each token's KL: k1 (unbiased), k2 or k3."""

    def rewards(
        self, score: float, logprobs: torch.Tensor, reference_logprobs: torch.Tensor, coefficient: float
    ) -> torch.Tensor:
        """Rewards of an answer's tokens, [T]: the penalty everywhere, the score at the last.

        Args:
            score: Of the answer.
            logprobs: [T], of its tokens under the policy.
            reference_logprobs: [T], under the reference.
            coefficient: The present beta.
        """
        rewards = -coefficient * estimate_kl(logprobs, reference_logprobs, self.estimator)
        rewards[-1] += score
        return rewards

    def updated(self, coefficient: float, kl: float) -> float:
        """The coefficient after a rollout whose answers had `kl` nats on average."""
        if self.target is None:
            return coefficient
        error = min(max((kl - self.target) / self.target, -0.2), 0.2)
        return coefficient * (1 + self.gain * error)
