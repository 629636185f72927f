"""DPO: direct preference optimization, which needs no reward model and no sampling (Rafailov et al., 2023, equation 7).

With the log-ratio h = log pi(y|x) - log pi_ref(y|x) of an answer's tokens, summed, the loss of a pair is

    -log sigma(beta (h_c - h_r))

and with label smoothing e (conservative DPO: a share e of the labels is wrong; Mitchell, 2023)

    -(1 - e) log sigma(beta (h_c - h_r)) - e log sigma(-beta (h_c - h_r)).

The reference is the network before it gets its adapter; its log-probabilities are computed once and kept with the
items, so training costs one pass through one model. Dropout is off, so that policy and reference differ only by what
was learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field
from torch.nn import functional

from posttrain.align.objectives import Alignment
from posttrain.align.pairs import collate_pairs, encode_pairs, pair_metrics, segment_logprobs, summarize_pairs
from posttrain.align.policy import without_dropout
from posttrain.core import events
from posttrain.data.dataset import Dataset
from posttrain.data.encoded import Encoded
from posttrain.data.packing import Packed, passes
from posttrain.train.objectives import Encoding

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from posttrain.models.language_model import LanguageModel

_REFERENCE = "reference"


class Dpo(Alignment):
    """Raise the chosen answer's probability against the rejected one's, held back by the reference."""

    margin: ClassVar[str] = "margin"

    beta: float = Field(0.1, gt=0)
    """How strongly the policy is held to the reference: implicit rewards are beta times log-ratios."""

    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    """Assumed share of pairs whose labels are the wrong way round."""

    def encode(self, dataset: Dataset, model: LanguageModel, encoding: Encoding) -> list[Encoded]:
        """Preference pairs."""
        return encode_pairs(dataset, model.tokenizer, encoding)

    def annotate(self, network: PreTrainedModel, items: Sequence[Encoded], tokens_per_pass: int) -> None:
        """Log-probabilities of both answers under the reference, as the extra `reference` of each item."""
        network.eval()
        with torch.no_grad(), events.task("Reference", total=len(items), unit="pairs") as progress:
            for part in passes(items, tokens_per_pass):
                batch = collate_pairs(part).to(network.device)
                for item, sides in zip(part, segment_logprobs(network, batch).view(-1, 2).tolist()):
                    item.extras[_REFERENCE] = sides
                progress.advance(len(part))

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
        """Summed loss; summed implicit rewards, their margin, and number of pairs in the right order."""
        without_dropout(network)
        log_ratios = segment_logprobs(network, batch) - batch.extras[_REFERENCE]  # [2P]
        chosen, rejected = log_ratios.view(-1, 2).unbind(1)
        value = dpo_loss(chosen, rejected, self.beta, self.label_smoothing).sum()
        rewards = self.beta * log_ratios.detach().view(-1, 2)
        return value, {
            **pair_metrics(rewards[:, 0] - rewards[:, 1]),
            "chosen_reward": float(rewards[:, 0].sum()),
            "rejected_reward": float(rewards[:, 1].sum()),
        }


def dpo_loss(
    chosen: torch.Tensor, rejected: torch.Tensor, beta: float = 0.1, label_smoothing: float = 0.0
) -> torch.Tensor:
    """The loss of each pair.

    With beta 0.1, h_c = 2 and h_r = -3 it is -log sigma(0.5) = 0.474077; with a label smoothing of 0.1,
    0.9 * 0.474077 + 0.1 * 0.974077 = 0.524077.

    Args:
        chosen: [P], log-ratios of the chosen answers.
        rejected: [P], of the rejected ones.
        beta: Scale of the implicit rewards.
        label_smoothing: Share of wrong labels, below one half.

    Returns:
        [P].
    """
    margin = beta * (chosen - rejected)
    return -(1 - label_smoothing) * functional.logsigmoid(margin) - label_smoothing * functional.logsigmoid(-margin)
