"""What the metrics share that are made of tokens' losses: texts in windows, sizes, intervals, signatures.

Perplexities are exp of a mean of nats, so means, intervals and sums are taken in nats and turned into perplexities at
the end; sums are float64. A text's tokens aren't independent draws, so intervals draw texts or, where there are few,
blocks of neighbouring tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
from pydantic import Field

from posttrain import __version__
from posttrain.core import events
from posttrain.core.errors import BadRequest, Failure
from posttrain.data import dataset
from posttrain.data.record import Text
from posttrain.measure import FEWEST_ITEMS, Measurement, ModelMetric
from posttrain.models.language_model import LanguageModel
from posttrain.models.text_tokens import SpecialTokens, TextTokens, special_tokens, text_tokens
from posttrain.models.token_losses import HIGHEST, Nats, token_losses, window_and_stride
from posttrain.ops.bootstrap import ratio_interval

_DEFAULT_WINDOW = 1024


@dataclass(frozen=True)
class Scored:
    """Texts and their tokens' losses.

    Attributes:
        texts: The texts that have something to score.
        nats: For each of them the losses of all tokens but the first, float32.
        made: What the signature says of how they were made.
    """

    texts: list[TextTokens]
    nats: list[Nats]
    made: dict[str, Any]


class Windowed(ModelMetric):
    """Base of metrics of a causal model on texts, read in a sliding window."""

    reads: ClassVar[tuple[str, ...]] = ("text",)

    text: str = "builtin:prose"
    """What to score: a text file, a data set of texts, or builtin:prose."""

    lines: bool = False
    """Take each line of a plain text as a text of its own; otherwise a file is one text."""

    window: int | None = Field(None, ge=2)
    """Tokens the model reads at once; when not given 1024, or the model's context where that is shorter."""

    stride: int | None = Field(None, ge=1)
    """By how many tokens the window moves; half the window when not given. Smaller is slower and gives more context."""

    max_tokens: int | None = Field(None, ge=2)
    """Use only the first so many tokens of all documents together."""

    special_tokens: SpecialTokens = "own"
    """Special tokens that a text gets: the tokenizer's own, none, or its own and always one that begins the text."""

    batch_size: int = Field(2, ge=1)
    """Full windows in one pass, or as many tokens of shorter ones; changes speed and memory, never the value."""

    def inputs(self) -> dict[str, Any]:
        """The text's hash."""
        read = self._read()
        return {"text": {"source": read.source, "hash": read.hash}}

    def _read(self) -> dataset.Dataset:
        return dataset.read(self.text, kind="text", lines=self.lines)

    def _scored(self, model: LanguageModel, name: str) -> Scored:
        """The losses of all tokens but each text's first.

        Raises:
            BadRequest: If the model isn't causal, the window doesn't fit its context, or there is nothing to score.
            Failure: If the model's logits aren't numbers.
        """
        refuse_unless_causal(model)
        window, stride = window_and_stride(model, self.window, self.stride, _DEFAULT_WINDOW)
        read = self._read()
        records = cast("list[Text]", read.records)
        texts = _tokens(
            model, (each.text for each in records), self.max_tokens, self.special_tokens, source=read.source
        )
        total = sum(len(each.ids) - 1 for each in texts)
        with events.task(name, total=total, unit="tokens") as progress:
            nats = token_losses(
                model.network,
                [each.ids for each in texts],
                window=window,
                stride=stride,
                tokens_per_pass=self.batch_size * window,
                progress=progress,
            )
        refuse_unless_finite(nats)
        unknown = sum(each.unknown for each in texts)
        warn_of_unknown(unknown)
        made = {
            "text": read.hash[:12],
            "tokens": total,
            "window": window,
            "stride": stride,
            "special": special_tokens(model, self.special_tokens),
            "unknown": unknown,
        }
        return Scored(texts, nats, made)


def refuse_unless_causal(model: LanguageModel) -> None:
    """Refuse a model that doesn't predict the next token.

    Raises:
        BadRequest: If it is one.
    """
    if not model.is_causal:
        raise BadRequest(
            f"{model.reference or type(model.network).__name__} is not a causal language model, "
            "so it has no perplexity.",
            "A masked language model has a pseudo-perplexity; an encoder-decoder has a conditional one.",
        )


def warn_of_unknown(count: int) -> None:
    """Tell that texts hold something the tokenizer has no token for."""
    if count:
        events.message(
            f"{count} tokens are the unknown token: what it hides isn't scored, so the value is better than the model.",
            level="warning",
        )


def refuse_unless_finite(nats: Sequence[Nats]) -> None:
    """Refuse losses that have no perplexity.

    Raises:
        Failure: If they aren't numbers, or their mean is too large for one.
    """
    tokens = sum(part.size for part in nats)
    mean = sum(float(part.sum(dtype=np.float64)) for part in nats) / max(1, tokens)
    if not mean <= HIGHEST:
        raise Failure(
            f"The model's logits are not numbers that have a perplexity: {mean} nats a token.",
            "Check the model's weights.",
        )


def measured(
    term: str,
    model: LanguageModel,
    nats: Sequence[Nats],
    *,
    size: int | None,
    unknown: int,
    made: dict[str, Any],
    parts: dict[str, Any],
) -> Measurement:
    """The perplexity of all tokens together.

    Args:
        term: The metric's name.
        model: Whose losses they are.
        nats: The negative log-likelihoods of each text's scored tokens, at least one in all.
        size: Bytes that these tokens stand for; None where that isn't known.
        unknown: How many of them are the unknown token.
        made: What the signature says beside model and versions; `unknown` comes last.
        parts: What the measurement tells beside value, nats, tokens and bits a byte.

    Raises:
        Failure: If the losses aren't numbers.
    """
    refuse_unless_finite(nats)
    warn_of_unknown(unknown)
    tokens, nll = sum(part.size for part in nats), total(nats)
    value = exp_mean(nll, tokens)
    assert value is not None
    own = {
        term: value,
        "nll": nll / tokens,
        "tokens_scored": tokens,
        "bits_per_byte": None if size is None else bits_per_byte(nll, size),
    }
    return Measurement(
        name=term,
        value=value,
        interval=exp_interval(interval(nats)),
        signature=signature(term, model, {**made, "unknown": unknown}),
        higher_is_better=False,
        parts={**own, **parts},
    )


def signature(term: str, model: LanguageModel, made: dict[str, Any]) -> str:
    """How a number was made, in one line: the metric, the model, what else counts, and the versions."""
    told = {
        "model": model.fingerprint()[:12],
        "tokenizer": model.tokenizer_fingerprint()[:12],
        **made,
        "dtype": str(model.network.dtype).removeprefix("torch."),
        "posttrain": __version__,
    }
    return "|".join([term, *(f"{key}:{value}" for key, value in told.items())])


def interval(nats: Sequence[Nats]) -> tuple[float, float] | None:
    """95 % bootstrap interval of the mean nats a token.

    Texts are drawn anew where there are enough of them. Otherwise it is blocks of neighbouring tokens, because these
    are alike: the cube root of the number of tokens long (Hall, Horowitz and Jing, 1995, "On blocking rules for the
    bootstrap with dependent data"), so that few texts give an interval too, about more text of the same kind.

    Args:
        nats: The negative log-likelihoods of each text, [tokens] each.

    Returns:
        (low, high), or None where there is too little text.
    """
    pieces = [part for part in nats if part.size]
    if len(pieces) < FEWEST_ITEMS:
        length = max(1, round(sum(part.size for part in pieces) ** (1 / 3)))
        pieces = [piece for part in pieces for piece in np.array_split(part, max(1, part.size // length))]
    if len(pieces) < FEWEST_ITEMS:
        return None
    found = ratio_interval([piece.sum(dtype=np.float64) for piece in pieces], [piece.size for piece in pieces])
    return found.low, found.high


def exp_interval(spread: tuple[float, float] | None) -> tuple[float, float] | None:
    """An interval of nats as one of perplexities; None where its end is no finite number."""
    return (math.exp(spread[0]), math.exp(spread[1])) if spread and spread[1] <= HIGHEST else None


def exp_mean(nats: float, count: int) -> float | None:
    """exp(nats / count), or None where there is nothing to divide by or the result is no finite number."""
    try:
        return math.exp(nats / count)
    except (OverflowError, ZeroDivisionError):
        return None


def bits_per_byte(nats: float, size: int) -> float | None:
    """Bits of a text's loss for each of its bytes; None where there are no bytes."""
    return nats / math.log(2) / size if size else None


def total(nats: Iterable[Nats]) -> float:
    """The sum of all losses, float64."""
    return sum(float(part.sum(dtype=np.float64)) for part in nats)


def _tokens(
    model: LanguageModel, texts: Iterable[str], limit: int | None, special: SpecialTokens, source: str
) -> list[TextTokens]:
    """Texts as tokens, cut to `limit` tokens in all; a text of one token has nothing to score and is left out."""
    found: list[TextTokens] = []
    left, skipped = limit, 0
    for text in texts:
        if left is not None and left < 2:
            break
        tokens = text_tokens(model, text, limit=left, special=special)
        if tokens is None:
            skipped += 1
            continue
        found.append(tokens)
        left = None if left is None else left - len(tokens.ids)
    if not found:
        raise BadRequest(
            f"{source} has fewer than two tokens a text, and the first isn't scored, so nothing can be scored.",
            "Give more text, or special_tokens=begin, which puts a token before it.",
        )
    if skipped:
        events.message(f"{skipped} texts have fewer than two tokens, so nothing of them is scored.", level="warning")
    return found
