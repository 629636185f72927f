"""Pseudo-perplexity of masked models: each token masked in turn and predicted from all the others.

Salazar et al. (2020, "Masked Language Model Scoring", equations 1 and 2): exp of the mean negative log-probability of
the hidden token. Special tokens are read and neither masked nor counted. A text of n tokens takes n passes over it, so
the default window is short; longer texts are cut into pieces, each read by itself. Copies of a piece are packed, logits
are taken at the hidden token only, and sums are float64. It can't be compared with a perplexity: a token may be
predicted from the rest of its own word. Left out: masking whole words (Kauf and Ivanova, 2023).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import torch
from pydantic import Field

from posttrain.core import events
from posttrain.core.errors import BadRequest
from posttrain.data import dataset
from posttrain.data.record import Text
from posttrain.measure import Measurement, ModelMetric
from posttrain.measure._token_losses import (
    exp_interval,
    interval,
    refuse_unless_finite,
    signature,
    total,
    warn_of_unknown,
)
from posttrain.models.forward import hidden_states, takes
from posttrain.models.heads import has_head, vocabulary_logits
from posttrain.models.language_model import LanguageModel
from posttrain.models.text_tokens import special_tokens
from posttrain.ops.logprobs import token_logprobs

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Nats = np.ndarray[Any, np.dtype[np.float32]]

_DEFAULT_WINDOW = 128


class PseudoPerplexity(ModelMetric):
    """exp of the mean negative log-probability of each token, masked alone."""

    higher_is_better: ClassVar[bool] = False

    reads: ClassVar[tuple[str, ...]] = ("text",)

    text: str = "builtin:prose"
    """What to score: a text file, a data set of texts, or builtin:prose."""

    lines: bool = True
    """Take each line of a plain text as a text of its own; otherwise a file is one text."""

    window: int | None = Field(None, ge=3)
    """Tokens of a piece, special ones included; when not given 128, or the model's context where that is shorter."""

    max_tokens: int | None = Field(None, ge=1)
    """Score only the first so many tokens of all texts together; the rest of the last piece is still read."""

    batch_size: int = Field(32, ge=1)
    """Copies in one pass, each with another token masked; changes speed and memory, never the value."""

    def inputs(self) -> dict[str, Any]:
        """The text's hash."""
        read = self._read()
        return {"text": {"source": read.source, "hash": read.hash}}

    def measure(self, model: LanguageModel) -> Measurement:
        """Score the text.

        The interval is a bootstrap over texts or, where there are few, over blocks of neighbouring tokens.

        Raises:
            BadRequest: If the model isn't masked, the window doesn't fit its context, or the text has no tokens.
            Failure: If the model's logits aren't numbers.
        """
        if not has_head(model.network, "masked") or model.tokenizer.mask_token_id is None:
            name = model.reference or type(model.network).__name__
            raise BadRequest(
                f"{name} is no masked language model with a mask token, so it has no pseudo-perplexity.",
                "A causal language model has a perplexity.",
            )
        window = self._window(model.context_length)
        read = self._read()
        texts = [record.text for record in cast("list[Text]", read.records)]
        pieces = _pieces(model, texts, window, self.max_tokens)
        nats: list[list[Nats]] = [[] for _ in texts]
        for number, part in zip((piece.text for piece in pieces), masked_nll(model, pieces, self.batch_size)):
            nats[number].append(part)
        unknown = sum(piece.ids[place] == model.tokenizer.unk_token_id for piece in pieces for place in piece.scored)
        warn_of_unknown(unknown)
        made = {
            "text": read.hash[:12],
            "tokens": sum(len(piece.scored) for piece in pieces),
            "window": window,
            "special": special_tokens(model),
            "unknown": unknown,
        }
        return _measurement([np.concatenate(parts) for parts in nats if parts], model, made)

    def _read(self) -> dataset.Dataset:
        return dataset.read(self.text, kind="text", lines=self.lines)

    def _window(self, context: int | None) -> int:
        window = self.window or min(_DEFAULT_WINDOW, context or _DEFAULT_WINDOW)
        if context and window > context:
            raise BadRequest(
                f"window {window} is longer than the model's context of {context} tokens.", f"Use {context} or less."
            )
        return window


@dataclass(frozen=True)
class Piece:
    """A piece of a text that is read at once.

    Attributes:
        text: Number of the text.
        ids: All its tokens, special ones included.
        scored: Where the tokens stand that are masked in turn.
    """

    text: int
    ids: list[int]
    scored: list[int]


def masked_nll(model: LanguageModel, pieces: Sequence[Piece], batch_size: int = 32) -> list[Nats]:
    """Negative log-likelihood of every token that isn't special, each masked alone.

    Args:
        model: A masked language model. It is measured in evaluation mode and left in the mode it was in.
        pieces: What is read at once.
        batch_size: Copies in one pass.

    Returns:
        For each piece, in order, float32 [scored tokens].
    """
    network = model.network
    training = network.training
    network.eval()
    # Networks that can't be packed are padded, so copies of like length go together.
    order = sorted(range(len(pieces)), key=lambda number: len(pieces[number].ids))
    work = [(number, place) for number in order for place in pieces[number].scored]
    found: list[list[float]] = [[] for _ in pieces]
    with (
        torch.inference_mode(),
        events.task("Pseudo-perplexity", total=len(work), unit="tokens") as progress,
    ):
        for start in range(0, len(work), batch_size):
            batch = work[start : start + batch_size]
            nll = _nll(network, int(model.tokenizer.mask_token_id), [(pieces[n].ids, place) for n, place in batch])
            for (number, _), value in zip(batch, nll.tolist()):
                found[number].append(value)
            progress.advance(len(batch))
    network.train(training)
    return [np.array(values, dtype=np.float32) for values in found]


def _nll(network: PreTrainedModel, mask: int, copies: Sequence[tuple[list[int], int]]) -> torch.Tensor:
    """Nats of the token at one place of each copy: [B]."""
    device = next(network.parameters()).device
    masked = [[*ids[:place], mask, *ids[place + 1 :]] for ids, place in copies]
    flat = torch.tensor([token for ids in masked for token in ids], device=device)
    boundaries = torch.tensor([0, *map(len, masked)], device=device).cumsum(0)
    types = {"token_type_ids": torch.zeros_like(flat)} if takes(network, "token_type_ids") else {}
    states = hidden_states(network, flat, boundaries, **types)
    places = boundaries[:-1] + torch.tensor([place for _, place in copies], device=device)
    wanted = torch.tensor([ids[place] for ids, place in copies], device=device)
    return -token_logprobs(vocabulary_logits(network, states[places]), wanted).float().cpu()


def _pieces(model: LanguageModel, texts: Sequence[str], window: int, limit: int | None) -> list[Piece]:
    """Texts cut into pieces of at most `window` tokens, with `limit` scored ones in all; blank texts give none."""
    if model.tokenizer.num_special_tokens_to_add() >= window:
        raise BadRequest(f"window {window} leaves no room beside the special tokens.", "Use a larger one.")
    pieces: list[Piece] = []
    left = limit
    for number, text in enumerate(texts):
        encoded = model.tokenizer(
            [text], truncation=True, max_length=window, return_overflowing_tokens=True, return_special_tokens_mask=True
        )
        for ids, special in zip(encoded["input_ids"], encoded["special_tokens_mask"]):
            scored = [place for place, is_special in enumerate(special) if not is_special][:left]
            left = None if left is None else left - len(scored)
            if scored:
                pieces.append(Piece(number, ids, scored))
        if left == 0:
            break
    if not pieces:
        raise BadRequest("The text has no tokens, so nothing can be scored.")
    return pieces


def _measurement(nats: list[Nats], model: LanguageModel, made: dict[str, Any]) -> Measurement:
    refuse_unless_finite(nats)
    tokens = sum(part.size for part in nats)
    nll = total(nats) / tokens
    value = math.exp(nll)
    return Measurement(
        name="pseudo_perplexity",
        value=value,
        interval=exp_interval(interval(nats)),
        signature=signature("pseudo_perplexity", model, made),
        higher_is_better=False,
        parts={
            "pseudo_perplexity": value,
            "nll": nll,
            "tokens_scored": tokens,
            "texts": len(nats),
            "unknown_tokens": made["unknown"],
            "special_tokens": made["special"],
        },
    )
