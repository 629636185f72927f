"""PPO: proximal policy optimization on rewards of sampled answers (Schulman et al., 2017; Ziegler et al., 2019).

For a token with ratio rho = pi(a|s) / pi_old(a|s) and advantage A the policy loss (equation 7) is

    max(-A rho, -A clip(rho, 1 - e, 1 + e))

and the value loss, clipped around the old value as in the authors' code,

    1/2 max((V - R)^2, (clip(V, V_old - e_v, V_old + e_v) - R)^2).

Their weighted sum, less the entropy bonus, is averaged over the answers' tokens. Policy, reference and critic are one
network: the reference is the adapter switched off, the critic a scalar head. Dropout is off, so the ratios of the first
minibatch after sampling are exactly 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from pydantic import Field

from posttrain.align.objectives import Alignment, Plan
from posttrain.align.policy import score_tokens, without_dropout
from posttrain.align.rollout import VALUE_HEAD, Prompt, Rollouts, RolloutSettings, encode_prompts
from posttrain.data.dataset import Dataset
from posttrain.data.encoded import Encoded
from posttrain.data.packing import Packed
from posttrain.models.scalar_head import head_of
from posttrain.ops.divergence import estimate_kl
from posttrain.ops.logprobs import entropy
from posttrain.train.objectives import Encoding

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from posttrain.models.language_model import LanguageModel


class Ppo(Alignment):
    """Clipped policy gradient with a learned value function."""

    default_data: ClassVar[str] = "builtin:prompts"
    samples_policy: ClassVar[bool] = True
    head: ClassVar[str | None] = VALUE_HEAD

    clip: float = Field(0.2, gt=0, lt=1)
    """How far a ratio may move before it stops being rewarded."""

    value_clip: float = Field(0.2, gt=0)
    """How far a value may move from the old one before it stops being rewarded."""

    value_coefficient: float = Field(0.1, ge=0)
    """Weight of the value loss."""

    entropy_coefficient: float = Field(0.0, ge=0)
    """Weight of the entropy bonus. Above 0 the logits of all answer tokens of a pass are held in memory."""

    rollout: RolloutSettings = RolloutSettings()
    """How answers are sampled and judged."""

    def encode(self, dataset: Dataset, model: LanguageModel, encoding: Encoding) -> list[Encoded]:
        """The prompts alone."""
        return list(encode_prompts(dataset, model.tokenizer, encoding))

    def batches(self, model: LanguageModel, items: Sequence[Encoded], plan: Plan) -> Iterable[list[Any]]:
        """Rollouts of the policy."""
        return Rollouts(model, cast("Sequence[Prompt]", items), self.rollout, plan)

    def steps_for(self, episodes: int, batch_size: int) -> int:
        """Whole rollouts, each with its epochs of minibatches."""
        size = min(self.rollout.episodes_per_rollout, episodes)
        return -(-episodes // size) * self.rollout.epochs * -(-size // batch_size)

    def weight(self, batch: Packed) -> float:
        """Number of answer tokens."""
        return float(batch.loss_tokens)

    def loss(self, network: PreTrainedModel, batch: Packed) -> tuple[torch.Tensor, dict[str, float]]:
        """Summed loss, and sums over tokens of its parts."""
        without_dropout(network)
        learned = batch.targets >= 0
        old = {name: values[learned] for name, values in batch.extras.items()}  # [N] each
        scored = score_tokens(network, batch)
        ratios = (scored.logprobs - old["logprobs"]).exp()
        policy = clipped_policy_loss(ratios, old["advantages"], self.clip).sum()
        values = head_of(network, VALUE_HEAD)(scored.hidden)
        critic = clipped_value_loss(values, old["values"], old["returns"], self.value_clip).sum()
        value = policy + self.value_coefficient * critic
        if self.entropy_coefficient:
            value = value - self.entropy_coefficient * entropy(scored.head.logits(scored.hidden)).sum()
        moved = estimate_kl(old["logprobs"], scored.logprobs.detach(), "k3")
        return value, {
            "policy_loss": float(policy.detach()),
            "value_loss": float(critic.detach()),
            "entropy": float(scored.entropies.sum()),
            "ratio": float(ratios.detach().sum()),
            "clipped": float(((ratios - 1).abs() > self.clip).sum()),
            "kl_from_old": float(moved.sum()),
        }


def clipped_policy_loss(ratios: torch.Tensor, advantages: torch.Tensor, clip: float) -> torch.Tensor:
    """The loss of each token, [N].

    With clip 0.2: ratio 1.5 and advantage 2 give -2.4 (clipped, no gradient), ratio 1.5 and advantage -2 give 3, ratio
    0.5 and advantage 2 give -1, ratio 0.5 and advantage -2 give 1.6 (clipped).
    """
    return torch.maximum(-advantages * ratios, -advantages * ratios.clamp(1 - clip, 1 + clip))


def clipped_value_loss(
    values: torch.Tensor, old_values: torch.Tensor, returns: torch.Tensor, clip: float
) -> torch.Tensor:
    """The loss of each value, [N].

    With clip 0.2: value 1, old value 0 and return 1 give 1/2 max(0, (0.2 - 1)^2) = 0.32; value 0.1 gives 0.405.
    """
    near = old_values + (values - old_values).clamp(-clip, clip)
    return torch.maximum((values - returns).square(), (near - returns).square()) / 2
