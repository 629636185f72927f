"""Perplexity by a sliding window: exp of the mean negative log-likelihood, each token scored exactly once.

A window of W tokens moves by a stride of S; only the tokens no earlier window scored are scored, each with at least
W - S tokens of context (as in the fixed-length recipe of Hugging Face's documentation). The last window ends with the
text and may be shorter. Where windows don't overlap (S = W), the token before a window is read too, so that its first
token can be scored, as lm-evaluation-harness does it. Windows are packed without padding, so the batch size changes
nothing beyond the rounding of float32 sums (1e-7 of the value); logits are taken in chunks and only for scored tokens;
sums are float64.

Each record of a data set is a document of its own: no window crosses from one to the next. Special tokens are the
tokenizer's own default and stand in the signature; the first token of a document has no predecessor and isn't scored,
nor does its text count where the loss is divided by bytes, characters or words.

A model in bfloat16 is measured as it computes: its logits carry 8 bits, which moves the perplexity of SmolLM2 by less
than 1 %. Left out: masked and encoder-decoder models.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import torch
from pydantic import Field
from torch import nn

from posttrain import __version__
from posttrain.core import events
from posttrain.core.errors import BadRequest, Failure
from posttrain.data import dataset
from posttrain.data.record import Text
from posttrain.measure import Measurement, ModelMetric
from posttrain.models.forward import VocabularyHead, hidden_states, vocabulary_head
from posttrain.models.language_model import LanguageModel
from posttrain.ops.bootstrap import ratio_interval
from posttrain.ops.logprobs import linear_logprobs, token_logprobs

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Nats = np.ndarray[Any, np.dtype[np.float32]]

_DEFAULT_WINDOW = 1024
# Rows of logits held at a time.
_CHUNK = 256
# Percentile intervals from fewer items than this are too narrow.
_FEWEST_ITEMS = 20


@dataclass(frozen=True)
class Window:
    """A window over tokens [begin, end) of a document: the last `scored` are scored, all but the last one are read."""

    begin: int
    end: int
    scored: int


def windows(length: int, window: int, stride: int) -> list[Window]:
    """The windows over a document of `length` tokens; the first token has no predecessor and is never scored.

    Args:
        length: Tokens of the document.
        window: Tokens of a window, at least 2.
        stride: By how much it moves, in [1, window].
    """
    found: list[Window] = []
    done = 1
    for begin in range(0, length, stride):
        end = min(begin + window, length)
        if end > done:
            # Without overlap the first scored token needs one token before the window; `window` tokens are read then.
            found.append(Window(min(begin, done - 1), end, end - done))
        done = max(done, end)
        if end == length:
            break
    return found


def token_nll(
    network: PreTrainedModel, documents: Sequence[Sequence[int]], window: int, stride: int, batch_size: int = 4
) -> list[tuple[int, Window, Nats]]:
    """Negative log-likelihood of every token but each document's first.

    Args:
        network: A causal language model. It is measured in evaluation mode and left in the mode it was in.
        documents: Token ids; windows don't cross documents.
        window: Tokens read at once.
        stride: By how much the window moves, at most `window`.
        batch_size: Windows in one pass.

    Returns:
        For each window, in the documents' order, its document's number, the window, and the nats of its scored tokens,
        float32 [scored].
    """
    work = [(i, w) for i, ids in enumerate(documents) for w in windows(len(ids), window, stride)]
    head = vocabulary_head(network)
    device = head.weight.device
    results: list[tuple[int, Window, Nats]] = []
    training = network.training
    network.eval()
    total = sum(w.scored for _, w in work)
    with torch.inference_mode(), events.task("Perplexity", total=total, unit="tokens") as progress:
        for start in range(0, len(work), batch_size):
            batch = work[start : start + batch_size]
            read = [documents[i][w.begin : w.end - 1] for i, w in batch]
            wanted = [t for i, w in batch for t in documents[i][w.end - w.scored : w.end]]
            ends = np.cumsum([len(ids) for ids in read]).tolist()
            # The hidden state of a token predicts the next one, so those of the last `scored` tokens read are needed.
            rows = torch.cat([torch.arange(end - w.scored, end) for (_, w), end in zip(batch, ends)]).to(device)
            flat = torch.tensor([t for ids in read for t in ids], device=device)
            hidden = hidden_states(network, flat, torch.tensor([0, *ends], device=device))[rows]
            logprobs = _logprobs(head, hidden, torch.tensor(wanted, device=device))
            nll = np.split(-logprobs.float().cpu().numpy(), np.cumsum([w.scored for _, w in batch])[:-1])
            results += [(i, w, part) for (i, w), part in zip(batch, nll)]
            progress.advance(sum(w.scored for _, w in batch))
    network.train(training)
    return results


def _logprobs(head: VocabularyHead, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """[N] log-probabilities of the targets, never holding more than a chunk of logits."""
    if isinstance(head.module, nn.Linear):
        return linear_logprobs(
            hidden, head.weight, targets, bias=head.bias, chunk=_CHUNK, softcap=head.softcap, scale=head.scale
        )
    # A projection of another kind may compute something else than its matrix says: a quantized one rounds its inputs.
    chunks = zip(hidden.split(_CHUNK), targets.split(_CHUNK))
    return torch.cat([token_logprobs(head.logits(rows), wanted) for rows, wanted in chunks])


class Perplexity(ModelMetric):
    """exp of the mean negative log-likelihood a token, in a sliding window."""

    higher_is_better: ClassVar[bool] = False

    text: str = "builtin:prose"
    """What to score: a text file, a data set of texts, or builtin:prose."""

    window: int | None = Field(None, ge=2)
    """Tokens the model reads at once; when not given 1024, or the model's context where that is shorter."""

    stride: int | None = Field(None, ge=1)
    """By how many tokens the window moves; half the window when not given. Smaller is slower and gives more context."""

    max_tokens: int | None = Field(None, ge=2)
    """Use only the first so many tokens of all documents together."""

    batch_size: int = Field(2, ge=1)
    """Windows in one pass; changes speed and memory, never the value."""

    def inputs(self) -> dict[str, Any]:
        """The text's hash."""
        read = self._read()
        return {"text": {"source": read.source, "hash": read.hash}}

    def measure(self, model: LanguageModel) -> Measurement:
        """Score the text.

        The interval is a bootstrap of the mean nats a token; see `interval`.

        Raises:
            BadRequest: If the model isn't causal, the window doesn't fit its context, or the text has under two tokens.
            Failure: If the model's logits aren't numbers.
        """
        if not model.is_causal:
            raise BadRequest(
                f"{model.reference or type(model.network).__name__} is not a causal language model, "
                "so it has no perplexity."
            )
        window, stride = self._window(model.context_length)
        read = self._read()
        texts = (record.text for record in cast("list[Text]", read.records))
        documents = _documents(model, texts, self.max_tokens)
        scored = token_nll(model.network, [d.ids for d in documents], window, stride, self.batch_size)
        nats: list[list[Nats]] = [[] for _ in documents]
        for number, _, part in scored:
            nats[number].append(part)
        signature = (
            f"perplexity|model:{model.fingerprint()[:12]}|tokenizer:{model.tokenizer_fingerprint()[:12]}"
            f"|text:{read.hash[:12]}|tokens:{sum(len(d.ids) - 1 for d in documents)}|window:{window}|stride:{stride}"
            f"|special:{_special_tokens(model)}|dtype:{str(model.network.dtype).removeprefix('torch.')}"
            f"|posttrain:{__version__}"
        )
        unknown = model.tokenizer.unk_token_id
        return _measurement(
            [np.concatenate(parts) for parts in nats],
            documents,
            unknown_tokens=0 if unknown is None else sum(d.ids[1:].count(unknown) for d in documents),
            signature=signature,
        )

    def _read(self) -> dataset.Dataset:
        return dataset.read(self.text, kind="text")

    def _window(self, context: int | None) -> tuple[int, int]:
        """Window and stride for a model with this context."""
        window = self.window or min(_DEFAULT_WINDOW, context or _DEFAULT_WINDOW)
        stride = self.stride or max(1, window // 2)
        if stride > window:
            raise BadRequest(f"stride {stride} is larger than window {window}: tokens would be left out.")
        if context and window > context:
            raise BadRequest(
                f"window {window} is longer than the model's context of {context} tokens.",
                f"Use --window {context} or less.",
            )
        return window, stride


def interval(nats: Sequence[Nats]) -> tuple[float, float] | None:
    """95 % bootstrap interval of the mean nats a token.

    Documents are drawn anew where there are enough of them. Otherwise it is blocks of neighbouring tokens, because
    these are alike: the cube root of the number of tokens long (Hall, Horowitz and Jing, 1995, "On blocking rules for
    the bootstrap with dependent data"), so that few documents give an interval too, about more text of the same kind.

    Args:
        nats: The negative log-likelihoods of each document, [tokens] each.

    Returns:
        (low, high), or None where there is too little text.
    """
    pieces = list(nats)
    if len(pieces) < _FEWEST_ITEMS:
        length = max(1, round(sum(part.size for part in nats) ** (1 / 3)))
        pieces = [piece for part in nats for piece in np.array_split(part, max(1, part.size // length))]
    if len(pieces) < _FEWEST_ITEMS:
        return None
    found = ratio_interval([piece.sum(dtype=np.float64) for piece in pieces], [piece.size for piece in pieces])
    return found.low, found.high


@dataclass(frozen=True)
class _Document:
    """Token ids, and the size of the text that all of them but the first stand for."""

    ids: list[int]
    bytes: int
    characters: int
    words: int


def _documents(model: LanguageModel, texts: Iterable[str], limit: int | None) -> list[_Document]:
    """Texts as tokens, cut to `limit` tokens in all; a text of one token has nothing to score and is left out."""
    documents: list[_Document] = []
    left, skipped = limit, 0
    for text in texts:
        if left is not None and left < 2:
            break
        document = _document(model, text, left)
        if document is None:
            skipped += 1
            continue
        documents.append(document)
        left = None if left is None else left - len(document.ids)
    if not documents:
        raise BadRequest("The text has fewer than two tokens, so nothing can be scored.")
    if skipped:
        events.message(f"{skipped} texts have fewer than two tokens, so nothing of them is scored.", level="warning")
    return documents


def _document(model: LanguageModel, text: str, limit: int | None) -> _Document | None:
    """At most `limit` tokens with the tokenizer's own special tokens; None if there is nothing to score."""
    encoding = _encoding(model, text, limit)
    ids: list[int] = encoding["input_ids"][:limit]
    if len(ids) < 2:
        return None
    spans = (encoding.token_to_chars(index) for index in reversed(range(len(ids))))  # None for special tokens
    end = next((span.end for span in spans if span), 0)
    first = encoding.token_to_chars(0)
    part = text[first.end if first else 0 : end]
    return _Document(ids, len(part.encode()), len(part), len(part.split()))


def _encoding(model: LanguageModel, text: str, limit: int | None) -> Any:
    """The tokens of a text, or of so much of it that the first `limit` tokens are the same.

    Which token stands where is settled by the text a few words around it, so a cut thousands of characters behind the
    last token that is used doesn't change it.
    """
    if limit is not None and len(text) > (reach := 32 * limit + 20_000):
        encoding = model.tokenizer(text[:reach], verbose=False)
        last = encoding.token_to_chars(limit - 1) if len(encoding["input_ids"]) > limit else None
        if last is not None and last.end + 10_000 < reach:
            return encoding
    return model.tokenizer(text, verbose=False)


def _special_tokens(model: LanguageModel) -> str:
    """Which tokens the tokenizer adds to a text by itself."""
    tokenizer = model.tokenizer
    own = set(tokenizer("a", add_special_tokens=False)["input_ids"])
    names = {tokenizer.eos_token_id: "eos", tokenizer.bos_token_id: "bos"}
    return "+".join(names.get(i, str(i)) for i in tokenizer("a")["input_ids"] if i not in own) or "none"


def _measurement(nats: list[Nats], documents: list[_Document], *, unknown_tokens: int, signature: str) -> Measurement:
    tokens = sum(part.size for part in nats)
    nll = float(sum(part.sum(dtype=np.float64) for part in nats))
    value = _exp(nll, tokens)
    if not math.isfinite(nll) or value is None:
        raise Failure(
            f"The model's logits are not numbers that have a perplexity: {nll / tokens} nats a token.",
            "Check the model's weights.",
        )
    spread = interval(nats)
    characters = sum(d.characters for d in documents)
    size = sum(d.bytes for d in documents)
    parts = {
        "perplexity": value,
        "nll": nll / tokens,
        "tokens_scored": tokens,
        "bits_per_byte": nll / math.log(2) / size if size else None,
        "byte_perplexity": _exp(nll, size),
        "character_perplexity": _exp(nll, characters),
        "word_perplexity": _exp(nll, sum(d.words for d in documents)),
        "unknown_tokens": unknown_tokens,
        "documents": len(documents),
    }
    return Measurement(
        name="perplexity",
        value=value,
        interval=(math.exp(spread[0]), math.exp(min(spread[1], 709.0))) if spread else None,
        signature=signature,
        higher_is_better=False,
        parts=parts,
    )


def _exp(nats: float, count: int) -> float | None:
    """exp(nats / count), or None where there is nothing to divide by or the result is no finite number."""
    try:
        return math.exp(nats / count)
    except (OverflowError, ZeroDivisionError):
        return None
