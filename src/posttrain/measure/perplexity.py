"""Perplexity by a sliding window: exp of the mean negative log-likelihood, each token scored exactly once.

A window of W tokens moves by a stride of S; only the tokens no earlier window scored are scored, each with at least
W - S tokens of context (as in the fixed-length recipe of Hugging Face's documentation). Windows are packed without
padding, so the batch size changes nothing; logits are taken in chunks and only for scored tokens; sums are float64.
Special tokens are the tokenizer's own default and stand in the signature. Left out: masked and encoder-decoder models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from pydantic import Field

from posttrain import __version__
from posttrain.core import events
from posttrain.core.errors import BadRequest, Failure
from posttrain.data import dataset
from posttrain.data.record import Text, content
from posttrain.measure import Measurement, ModelMetric
from posttrain.models.forward import hidden_states, vocabulary_head
from posttrain.models.language_model import LanguageModel
from posttrain.ops.bootstrap import ratio_interval
from posttrain.ops.logprobs import linear_logprobs

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Window:
    """One window: tokens [begin, end) of a document are read, the last `scored` of them are scored."""

    begin: int
    end: int
    scored: int


def windows(length: int, window: int, stride: int) -> list[Window]:
    """The windows over a document of `length` tokens; the first token has no predecessor and is never scored."""
    found: list[Window] = []
    done = 1
    for begin in range(0, length, stride):
        end = min(begin + window, length)
        if end > done:
            found.append(Window(begin, end, end - done))
        done = max(done, end)
        if end == length:
            break
    return found


def token_nll(
    network: PreTrainedModel, documents: Sequence[Sequence[int]], window: int, stride: int, batch_size: int = 4
) -> list[tuple[int, Window, np.ndarray[Any, np.dtype[np.float32]]]]:
    """Negative log-likelihood of every token but each document's first.

    Args:
        network: A causal language model.
        documents: Token ids; windows don't cross documents.
        window: Tokens read at once.
        stride: By how much the window moves.
        batch_size: Windows in one pass.

    Returns:
        For each window its document's number, the window, and the nats of its scored tokens, float32 [scored].
    """
    work = [(i, w) for i, ids in enumerate(documents) for w in windows(len(ids), window, stride)]
    head = vocabulary_head(network)
    device = head.weight.device
    results: list[tuple[int, Window, np.ndarray[Any, np.dtype[np.float32]]]] = []
    network.eval()
    total = sum(w.scored for _, w in work)
    with torch.inference_mode(), events.task("Perplexity", total=total, unit="tokens") as progress:
        for start in range(0, len(work), batch_size):
            batch = work[start : start + batch_size]
            ids = torch.tensor([t for i, w in batch for t in documents[i][w.begin : w.end]], device=device)
            ends = np.cumsum([w.end - w.begin for _, w in batch])
            boundaries = torch.tensor([0, *ends], device=device)
            # The token at position t is predicted by the hidden state at t - 1.
            rows = torch.cat(
                [torch.arange(e - w.scored, e, device=device) for (_, w), e in zip(batch, ends.tolist())]
            )
            hidden = hidden_states(network, ids, boundaries)[rows - 1]
            logprobs = linear_logprobs(
                hidden, head.weight, ids[rows], bias=head.bias, softcap=head.softcap, scale=head.scale
            )
            nll = np.split(-logprobs.float().cpu().numpy(), np.cumsum([w.scored for _, w in batch])[:-1])
            results += [(i, w, part) for (i, w), part in zip(batch, nll)]
            progress.advance(sum(w.scored for _, w in batch))
    return results


class Perplexity(ModelMetric):
    """exp of the mean negative log-likelihood a token, in a sliding window."""

    higher_is_better: ClassVar[bool] = False

    text: str = "builtin:prose"
    """What to score: a text file, a data set of texts, or builtin:prose."""

    window: int = Field(1024, ge=2)
    """Tokens the model reads at once."""

    stride: int | None = Field(None, ge=1)
    """By how many tokens the window moves; half the window when not given. Smaller is slower and gives more context."""

    max_tokens: int | None = Field(None, ge=2)
    """Use only the first so many tokens."""

    batch_size: int = Field(2, ge=1)
    """Windows in one pass; changes speed and memory, never the value."""

    def inputs(self) -> dict[str, Any]:
        """The text's hash."""
        read = dataset.read(self.text)
        return {"text": {"source": read.source, "hash": read.hash}}

    def measure(self, model: LanguageModel) -> Measurement:
        """Score the text.

        Raises:
            BadRequest: If the model isn't causal, the window doesn't fit its context, or a text has under two tokens.
            Failure: If the model's logits aren't numbers.
        """
        stride = self.stride or max(1, self.window // 2)
        if not model.is_causal:
            raise BadRequest(f"{model.reference} is not a causal language model, so it has no perplexity.")
        if stride > self.window:
            raise BadRequest(f"stride {stride} is larger than window {self.window}: tokens would be left out.")
        if model.context_length and self.window > model.context_length:
            raise BadRequest(
                f"window {self.window} is longer than the model's context of {model.context_length} tokens.",
                f"Use --window {model.context_length} or less.",
            )
        texts = dataset.read(self.text)
        encoded = [_encode(model, record, self.max_tokens) for record in texts.records]
        documents, sizes = _within(encoded, self.max_tokens)
        scored = token_nll(model.network, documents, self.window, stride, self.batch_size)
        sums = np.array([part.sum(dtype=np.float64) for _, _, part in scored])
        counts = np.array([part.size for _, _, part in scored], dtype=np.float64)
        return self._measurement(model, sums, counts, sizes, stride, documents)

    def _measurement(
        self,
        model: LanguageModel,
        sums: np.ndarray[Any, np.dtype[np.float64]],
        counts: np.ndarray[Any, np.dtype[np.float64]],
        sizes: dict[str, int],
        stride: int,
        documents: list[list[int]],
    ) -> Measurement:
        nll, tokens = float(sums.sum()), int(counts.sum())
        if not math.isfinite(nll):
            raise Failure("The model's logits are not numbers, so there is no perplexity.", "Check the model's weights.")
        spread = ratio_interval(sums, counts) if len(sums) > 1 else None
        bos = "tokenizer" if _adds_bos(model) else "none"
        unknown = model.tokenizer.unk_token_id
        unknown_tokens = sum(ids.count(unknown) for ids in documents) if unknown is not None else 0
        signature = (
            f"perplexity|model:{model.fingerprint()[:12]}|tokenizer:{model.tokenizer_fingerprint()[:12]}"
            f"|text:{dataset.read(self.text).hash[:12]}|tokens:{tokens}|window:{self.window}|stride:{stride}|bos:{bos}"
            f"|dtype:{str(model.network.dtype).removeprefix('torch.')}|posttrain:{__version__}"
        )
        return Measurement(
            name="perplexity",
            value=math.exp(nll / tokens),
            interval=(math.exp(spread.low), math.exp(spread.high)) if spread else None,
            signature=signature,
            higher_is_better=False,
            parts={
                "perplexity": math.exp(nll / tokens),
                "nll": nll / tokens,
                "tokens_scored": tokens,
                "bits_per_byte": nll / math.log(2) / sizes["bytes"],
                "byte_perplexity": math.exp(nll / sizes["bytes"]),
                "character_perplexity": math.exp(nll / sizes["characters"]),
                "word_perplexity": math.exp(min(700.0, nll / max(1, sizes["words"]))),
                "unknown_tokens": unknown_tokens,
                "documents": len(documents),
            },
        )


def _adds_bos(model: LanguageModel) -> bool:
    ids = model.tokenizer("a")["input_ids"]
    return bool(ids) and ids[0] == model.tokenizer.bos_token_id


def _encode(model: LanguageModel, record: Any, limit: int | None) -> tuple[list[int], list[tuple[int, int]], str]:
    """Ids with the tokenizer's own special tokens, their character offsets, and the text."""
    text = record.text if isinstance(record, Text) else content(record)
    encoding = model.tokenizer(text, return_offsets_mapping=True, verbose=False)
    return encoding["input_ids"], encoding["offset_mapping"], text


def _within(
    encoded: list[tuple[list[int], list[tuple[int, int]], str]], limit: int | None
) -> tuple[list[list[int]], dict[str, int]]:
    """Documents cut to `limit` tokens in all, and the size of the text that their scored tokens stand for."""
    documents: list[list[int]] = []
    sizes = {"bytes": 0, "characters": 0, "words": 0}
    left = limit if limit is not None else sum(len(ids) for ids, _, _ in encoded)
    for ids, offsets, text in encoded:
        ids, offsets = ids[:left], offsets[:left]
        if len(ids) < 2:
            continue
        left -= len(ids)
        documents.append(ids)
        part = text[offsets[0][1] : max(end for _, end in offsets)]
        sizes["bytes"] += len(part.encode())
        sizes["characters"] += len(part)
        sizes["words"] += len(part.split())
    if not documents:
        raise BadRequest("The text has fewer than two tokens, so nothing can be scored.")
    return documents, sizes
