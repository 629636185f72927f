"""Reward model: a scalar head learns which of two answers people prefer (Bradley and Terry, 1952).

With r the head's output at the last token of prompt and answer, the probability that the chosen answer wins is
sigma(r_c - r_r), and the loss of a pair is -log sigma(r_c - r_r) (Stiennon et al., 2020; Ouyang et al., 2022, equation
1). Adapter and head are trained together; the head starts at zero, so the first loss is ln 2. Left out: more than two
answers a prompt. Several such models judge together in `posttrain.align.reward_ensemble`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field
from torch.nn import functional

from posttrain.align.objectives import Alignment
from posttrain.align.pairs import collate_pairs, encode_pairs, pair_metrics, summarize_pairs
from posttrain.align.reward import segment_rewards
from posttrain.data.dataset import Dataset
from posttrain.data.encoded import Encoded
from posttrain.data.packing import Packed
from posttrain.models.scalar_head import REWARD_HEAD, head_of
from posttrain.train.objectives import Encoding

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from posttrain.models.language_model import LanguageModel


class RewardModel(Alignment):
    """Bradley-Terry on chosen and rejected answers."""

    makes_policy: ClassVar[bool] = False
    margin: ClassVar[str] = "margin"
    head: ClassVar[str | None] = REWARD_HEAD
    keeps_head: ClassVar[bool] = True

    centering: float = Field(0.0, ge=0)
    """Weight of (r_c + r_r)^2, which keeps rewards around zero (Eisenstein et al., 2023); 0 for none."""

    def encode(self, dataset: Dataset, model: LanguageModel, encoding: Encoding) -> list[Encoded]:
        """Preference pairs."""
        return encode_pairs(dataset, model.tokenizer, encoding)

    def collate(self, items: Sequence[Encoded]) -> Packed:
        """Chosen and rejected answers in turn."""
        return collate_pairs(items)

    def weight(self, batch: Packed) -> float:
        """Number of pairs."""
        return batch.segments / 2

    def summarize(self, sums: dict[str, float], weight: float) -> dict[str, float]:
        """Means over pairs, and the calibration error."""
        return summarize_pairs(sums, weight)

    def loss(self, network: PreTrainedModel, batch: Packed) -> tuple[torch.Tensor, dict[str, float]]:
        """Summed loss; summed margin and number of pairs in the right order, a tie counting half."""
        chosen, rejected = segment_rewards(network, head_of(network, REWARD_HEAD), batch).view(-1, 2).unbind(1)
        value = bradley_terry(chosen, rejected).sum()
        if self.centering:
            value = value + self.centering * (chosen + rejected).square().sum()
        return value, pair_metrics((chosen - rejected).detach())


def bradley_terry(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
    """-log sigma(chosen - rejected) of each pair, [...]."""
    return -functional.logsigmoid(chosen - rejected)
