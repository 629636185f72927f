"""Preference pairs as tokens: both answers to a prompt in one item, so that no split of a batch parts them.

An item holds the chosen sequence and then the rejected one; extras say where the second begins. A packed batch of P
pairs has 2P segments, chosen and rejected in turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from posttrain.core.errors import BadRequest
from posttrain.core.events import message
from posttrain.data.chat_template import tokenize
from posttrain.data.dataset import Dataset
from posttrain.data.encoded import Encoded
from posttrain.data.packing import Packed, pack
from posttrain.data.record import Preference, Record
from posttrain.models.forward import hidden_states, vocabulary_head
from posttrain.ops.logprobs import linear_logprobs
from posttrain.train.objectives import Encoding

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SPLIT = "split"  # extra of an item: the length of its chosen sequence

_BINS = 5
_EXCESS = "confidence_excess/"  # sums of confidence less rightness, one a bin


def encode_pairs(dataset: Dataset, tokenizer: PreTrainedTokenizerBase, encoding: Encoding) -> list[Encoded]:
    """Preference records as items of two sequences each; learned are the answers.

    Raises:
        BadRequest: If the records aren't preferences, an answer is too long, or no pair is left.
    """
    if encoding.too_long == "split":
        raise BadRequest("Answers of a preference pair can't be split.", "Use too_long: truncate or skip.")
    records: list[Record] = []
    for record in dataset.records:
        if not isinstance(record, Preference):
            raise BadRequest(
                f"{record.origin}: preferences need a chosen and a rejected answer, this is a {dataset.kind} record.",
                "Give data with the columns prompt, chosen and rejected.",
            )
        records += record.sides()
    sides = list(tokenize(records, tokenizer, train_on="completion", chat=encoding.chat))
    items, skipped = [], 0
    for chosen, rejected in zip(sides[::2], sides[1::2]):
        pair = [_cut(side, encoding) for side in (chosen, rejected)]
        if all(side.loss_tokens for side in pair if side is not None) and None not in pair:
            items.append(_join(*(side for side in pair if side is not None)))
        else:
            skipped += 1
    if skipped:
        message(
            f"{skipped} of {len(sides) // 2} pairs left out, longer than max_length={encoding.max_length}.",
            level="warning",
        )
    if not items:
        raise BadRequest("No preference pair is left to learn from.", "Raise max_length.")
    return items


def _cut(side: Encoded, encoding: Encoding) -> Encoded | None:
    limit = encoding.max_length
    if limit is None or len(side) <= limit:
        return side
    if encoding.too_long == "error":
        raise BadRequest(
            f"{side.origin}: {len(side)} tokens, but max_length is {limit}.",
            "Raise max_length, or decide with --set encoding.too_long=… (truncate or skip).",
        )
    return Encoded(side.input_ids[:limit], side.loss_mask[:limit], side.origin) if encoding.too_long != "skip" else None


def _join(chosen: Encoded, rejected: Encoded) -> Encoded:
    return Encoded(
        [*chosen.input_ids, *rejected.input_ids],
        [*chosen.loss_mask, *rejected.loss_mask],
        chosen.origin,
        {SPLIT: len(chosen)},
    )


def collate_pairs(items: Sequence[Encoded]) -> Packed:
    """P items as 2P segments; an extra that is a list of two numbers gives one to each segment."""
    sides = []
    for item in items:
        cut = item.extras[SPLIT]
        given = {name: value for name, value in item.extras.items() if name != SPLIT}
        for number, part in enumerate((slice(None, cut), slice(cut, None))):
            extras = {name: value[number] for name, value in given.items()}
            sides.append(Encoded(item.input_ids[part], item.loss_mask[part], item.origin, extras))
    return pack(sides)


def segment_logprobs(network: PreTrainedModel, batch: Packed) -> torch.Tensor:
    """Log-probability of each segment's learned tokens, summed: [S], float32, differentiable."""
    hidden = hidden_states(network, batch.input_ids, batch.boundaries)  # [T, H]
    learned = batch.targets >= 0
    head = vocabulary_head(network)
    tokens = linear_logprobs(
        hidden[learned], head.weight, batch.targets[learned], bias=head.bias, softcap=head.softcap, scale=head.scale
    )
    return tokens.new_zeros(batch.segments).index_add(0, batch.segment_ids[learned], tokens)


def pair_metrics(margins: torch.Tensor) -> dict[str, float]:
    """Sums over pairs of the margin, of its being positive (a tie is half right), and what calibration is made of.

    Args:
        margins: [P], the reward of the chosen answer less that of the rejected one.
    """
    right = (margins > 0).float() + (margins == 0).float() / 2
    confidence = torch.sigmoid(margins.float().abs())  # of the order the rewards give, from 1/2 to 1
    bins = ((confidence - 0.5) * 2 * _BINS).long().clamp(max=_BINS - 1)
    excess = torch.zeros(_BINS, device=margins.device).index_add(0, bins, confidence - right)
    over = {f"{_EXCESS}{number}": value for number, value in enumerate(excess.tolist())}
    return {"margin": float(margins.sum()), "accuracy": float(right.sum()), **over}


def summarize_pairs(sums: dict[str, float], weight: float) -> dict[str, float]:
    """Means, and the expected calibration error: how far the confidence is from the share of right orders.

    Pairs are put in five bins by the probability sigma(|margin|) of the order they are put in; the error is the mean
    over pairs of their bin's difference between mean probability and share of right orders (Guo et al., 2017, equation
    3). Rewards of 0 have the error 0: they claim nothing.
    """
    bins = [value for key, value in sums.items() if key.startswith(_EXCESS)]
    means = {key: value / weight for key, value in sums.items() if not key.startswith(_EXCESS)}
    return {**means, "calibration_error": sum(map(abs, bins)) / weight}
