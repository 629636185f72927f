"""How far a model's predictions have moved from another's: the mean KL divergence a token, on a text.

Of the original only its last hidden states are kept, not its logits: a few megabytes, so that a model that is changed
in place can be compared with what it was.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import islice
from typing import cast

import torch
from torch import Tensor

from posttrain.data import dataset
from posttrain.data.record import Text
from posttrain.models.forward import VocabularyHead, hidden_states, vocabulary_head
from posttrain.models.language_model import LanguageModel
from posttrain.ops.divergence import forward_kl

_WINDOW = 1024
_ROWS = 128


@dataclass(frozen=True)
class Predictions:
    """What a model says comes next, at every token of a text.

    Attributes:
        hidden: [tokens, H], what the vocabulary projection gets.
        head: The projection.
    """

    hidden: Tensor
    head: VocabularyHead


def predictions(model: LanguageModel, text: str, max_tokens: int, *, keep: bool = False) -> Predictions:
    """Read the first tokens of a text in windows that don't overlap.

    Args:
        model: A causal language model.
        text: A text file, a data set of texts, or builtin:NAME.
        max_tokens: How much of it.
        keep: Copy the vocabulary projection, because the model's own will be changed.
    """
    window = min(_WINDOW, model.context_length or _WINDOW)
    pieces: list[list[int]] = []
    left = max_tokens
    for record in dataset.read(text, kind="text").records:
        # 32 characters a token are enough for any text, and spare reading all of a long one.
        words = cast("Text", record).text[: 32 * left + 1000]
        ids: list[int] = model.tokenizer(words, verbose=False)["input_ids"][:left]
        pieces += [ids[start : start + window] for start in range(0, len(ids), window)]
        left -= len(ids)
        if left <= 0:
            break
    head = vocabulary_head(model.network)
    if keep:
        module = deepcopy(head.module)
        head = replace(head, module=module)
    states: list[Tensor] = []
    waiting = iter(pieces)
    with torch.inference_mode():
        while some := list(islice(waiting, 2)):
            starts = torch.tensor([0, *map(len, some)]).cumsum(0).to(model.device)
            flat = torch.tensor([token for piece in some for token in piece], device=model.device)
            states.append(hidden_states(model.network, flat, starts))
    return Predictions(torch.cat(states), head)


def mean_divergence(original: Predictions, other: Predictions) -> float:
    """KL(original || other) in nats, averaged over tokens.

    Args:
        original: Of a text.
        other: Of the same text.
    """
    total = 0.0
    with torch.inference_mode():
        for first, second in zip(original.hidden.split(_ROWS), other.hidden.split(_ROWS)):
            total += float(forward_kl(original.head.logits(first), other.head.logits(second)).double().sum())
    return max(0.0, total / len(original.hidden))
