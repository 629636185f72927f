"""A policy's log-probabilities of given tokens, the one way they are computed here.

Old and new probabilities of a token must come from the same arithmetic: only then is their ratio exactly 1 before the
first update. So both are taken from a packed pass with dropout off, over the same packing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from posttrain.data.packing import Packed
from posttrain.models.forward import VocabularyHead, hidden_states, vocabulary_head
from posttrain.ops.logprobs import linear_logprobs

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Scored(NamedTuple):
    """What a pass says about the N learned tokens of a packed batch, in their order.

    Attributes:
        hidden: [N, H], the states from which they are predicted.
        logprobs: [N] float32.
        entropies: [N] float32, of the distributions they were drawn from, without gradient.
        head: The vocabulary projection.
    """

    hidden: torch.Tensor
    logprobs: torch.Tensor
    entropies: torch.Tensor
    head: VocabularyHead


def score_tokens(network: PreTrainedModel, batch: Packed) -> Scored:
    """One pass; differentiable unless gradients are off."""
    learned = batch.targets >= 0
    hidden = hidden_states(network, batch.input_ids, batch.boundaries)[learned]
    head = vocabulary_head(network)
    logprobs, entropies = linear_logprobs(
        hidden,
        head.weight,
        batch.targets[learned],
        bias=head.bias,
        softcap=head.softcap,
        scale=head.scale,
        with_entropy=True,
    )
    return Scored(hidden, logprobs, entropies, head)


def without_dropout(network: PreTrainedModel) -> None:
    """Put the network in evaluation mode, but for layers that must be in training mode to recompute activations."""
    for module in network.modules():
        module.training = bool(getattr(module, "gradient_checkpointing", False))
