"""How well a model predicts each record by itself, a number a text, for any length of data set.

A text is scored whole: it is given a token that begins it, so that its first token counts too and bits per byte can be
compared between models with different tokenizers. Of a prompt with an answer, or a conversation, the answers count,
given what precedes them, by the same tokens that fine-tuning learns.

Long work is done in parts of a fixed extent. A part's scores are on disk before the next one begins, so a killed
process loses one part; and since parts don't depend on where it was interrupted, the outcome is the same bit for bit.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from posttrain import __version__
from posttrain.core import events, files
from posttrain.core.errors import BadRequest, Failure
from posttrain.data.answers import answer_bytes, answered
from posttrain.data.chat_template import tokenize
from posttrain.data.record import Labelled, Record, Text, content
from posttrain.models.language_model import LanguageModel
from posttrain.models.text_tokens import text_tokens
from posttrain.models.token_losses import HIGHEST, token_losses, window_and_stride

# Tokens read at once where nothing else is asked for.
USUAL_WINDOW = 1024
# Extent of a part: seconds of work for a small model.
_PART_RECORDS = 512
_PART_CHARACTERS = 200_000


@dataclass(frozen=True)
class TextScore:
    """What predicting a text costs.

    Attributes:
        nats: The negative log-likelihood of its scored tokens together.
        tokens: How many tokens were scored.
        bytes: Size in UTF-8 of what they stand for; 0 where that isn't plain text.
        unknown: How many of them are the unknown token.
    """

    nats: float
    tokens: int
    bytes: int
    unknown: int

    @property
    def perplexity(self) -> float:
        """exp of the mean nats a token."""
        return math.exp(self.nats / self.tokens)

    @property
    def bits_per_byte(self) -> float:
        """Bits for each byte; what models with different tokenizers are compared by."""
        return self.nats / math.log(2) / self.bytes if self.bytes else math.nan


def conditions(
    model: LanguageModel, *, window: int | None = None, stride: int | None = None, chat: bool | None = None
) -> dict[str, Any]:
    """What scores depend on beside the texts, for a signature.

    Args:
        model: Who predicts.
        window: See `score_texts`.
        stride: See there.
        chat: See there.

    Raises:
        BadRequest: If the window doesn't fit the model.
    """
    window, stride = window_and_stride(model, window, stride, USUAL_WINDOW)
    return {
        "model": model.fingerprint()[:12],
        "tokenizer": model.tokenizer_fingerprint()[:12],
        "window": window,
        "stride": stride,
        "chat": {None: "own", True: "true", False: "false"}[chat],
        "special": "begin",
        "dtype": str(model.network.dtype).removeprefix("torch."),
        "posttrain": __version__,
    }


def signature(term: str, made: Mapping[str, Any]) -> str:
    """How numbers were made, in one line: what they are, then names with values."""
    return "|".join([term, *(f"{name}:{value}" for name, value in made.items())])


def score_texts(
    model: LanguageModel,
    records: Sequence[Record],
    *,
    window: int | None = None,
    stride: int | None = None,
    chat: bool | None = None,
    tokens_per_pass: int = 2048,
    store: Path | None = None,
    key: str = "",
    name: str = "Scoring texts",
) -> list[TextScore]:
    """Score each record by itself.

    Args:
        model: A causal language model.
        records: Texts, labelled texts, or prompts with answers; all of one kind.
        window: Most tokens read at once; 1024 or the model's context when not given.
        stride: By how much the window moves over a longer text; half the window when not given.
        chat: Render prompts through the chat template; None renders conversations only.
        tokens_per_pass: Most tokens that go through the model together; it changes speed and memory, and values only by
            rounding.
        store: A file that keeps what is done, so that an interrupted call goes on there; None keeps nothing.
        key: What the work in `store` must have been for; anything else there is dropped.
        name: What progress is called.

    Returns:
        One score a record, in order.

    Raises:
        BadRequest: If the model isn't causal, the window doesn't fit, or a record can't be scored; names it.
        Failure: If the model's logits aren't numbers, or the disk is full.
    """
    if not model.is_causal:
        name = model.reference or type(model.network).__name__
        raise BadRequest(f"{name} is not a causal language model, so it can't score texts.")
    window, stride = window_and_stride(model, window, stride, USUAL_WINDOW)
    done = _Store(store, key)
    found: list[TextScore] = []
    with events.task(name, total=len(records), unit="texts", done=min(done.count, len(records))) as progress:
        for number, part in enumerate(_parts(records)):
            scores = done.part(number)
            if scores is None:
                scores = _scored(model, part, window, stride, chat, tokens_per_pass)
                done.add(scores)
                progress.advance(len(part))
            found += scores
    return found


def _parts(records: Sequence[Record]) -> Iterator[list[Record]]:
    """Records in parts whose extent depends on nothing but the records."""
    part: list[Record] = []
    size = 0
    for record in records:
        part.append(record)
        size += len(content(record))
        if len(part) >= _PART_RECORDS or size >= _PART_CHARACTERS:
            yield part
            part, size = [], 0
    if part:
        yield part


@dataclass(frozen=True)
class _Sequence:
    """A record as tokens, and where those stand that are scored."""

    ids: list[int]
    wanted: Sequence[int]
    bytes: int
    unknown: int


def _scored(
    model: LanguageModel, records: list[Record], window: int, stride: int, chat: bool | None, tokens_per_pass: int
) -> list[TextScore]:
    plain = all(isinstance(record, (Text, Labelled)) for record in records)
    sequences = [_text(model, record) for record in records] if plain else _answers(model, records, chat)
    losses = token_losses(
        model.network,
        [each.ids for each in sequences],
        window=window,
        stride=stride,
        wanted=[each.wanted for each in sequences],
        tokens_per_pass=tokens_per_pass,
    )
    found = []
    for record, sequence, nats in zip(records, sequences, losses):
        total = float(nats.sum(dtype="float64"))
        if not total <= HIGHEST * len(sequence.wanted):
            raise Failure(
                f"{record.origin}: the model's logits are not numbers that have a perplexity: "
                f"{total / len(sequence.wanted):.6g} nats a token.",
                "Check the model's weights.",
            )
        found.append(TextScore(total, len(sequence.wanted), sequence.bytes, sequence.unknown))
    return found


def _text(model: LanguageModel, record: Record) -> _Sequence:
    assert isinstance(record, (Text, Labelled))
    pair = record.text_pair if isinstance(record, Labelled) else None
    tokens = text_tokens(model, record.text if pair is None else f"{record.text}\n{pair}", special="begin")
    if tokens is None:
        raise BadRequest(f"{record.origin}: the model's tokenizer makes no tokens of this text.")
    return _Sequence(tokens.ids, range(1, len(tokens.ids)), tokens.bytes, tokens.unknown)


def _answers(model: LanguageModel, records: list[Record], chat: bool | None) -> list[_Sequence]:
    asked = [answered(record) for record in records]
    unknown = model.tokenizer.unk_token_id
    if unknown in (model.tokenizer.eos_token_id, model.tokenizer.pad_token_id):
        unknown = None
    found = []
    for record, encoded in zip(asked, tokenize(asked, model.tokenizer, chat=chat)):
        wanted = [place for place, learned in enumerate(encoded.loss_mask) if learned]
        if not wanted:
            raise BadRequest(f"{record.origin}: there is no answer in this record.")
        hidden = 0 if unknown is None else sum(encoded.input_ids[place] == unknown for place in wanted)
        found.append(_Sequence(encoded.input_ids, wanted, answer_bytes(record) or 0, hidden))
    return found


class _Store:
    """Parts that are done, one JSON line each behind a line with the key; a half-written last line doesn't count.

    The file comes with the first part, so a request that is refused leaves none.
    """

    def __init__(self, path: Path | None, key: str) -> None:
        self._path = path
        self._parts: list[list[TextScore]] = []
        self._head = json.dumps(key).encode() + b"\n"
        if path is None or not path.exists():
            return
        with files.disk_errors(path):
            whole = path.read_bytes().rpartition(b"\n")[0] + b"\n"
            head, *lines = whole.splitlines(keepends=True)
            if head != self._head:
                return  # of other work: the first part replaces it
            self._parts = [[TextScore(**score) for score in json.loads(line)] for line in lines]
            with path.open("r+b") as handle:
                handle.truncate(len(whole))

    @property
    def count(self) -> int:
        """Records that are done."""
        return sum(map(len, self._parts))

    def part(self, number: int) -> list[TextScore] | None:
        """The scores of a part; None if it isn't done."""
        return self._parts[number] if number < len(self._parts) else None

    def add(self, scores: list[TextScore]) -> None:
        """Put the next part on disk."""
        self._parts.append(scores)
        if self._path is None:
            return
        line = json.dumps([asdict(score) for score in scores]).encode() + b"\n"
        first = len(self._parts) == 1
        with files.disk_errors(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("wb" if first else "ab") as handle:
                handle.write(self._head + line if first else line)
                handle.flush()
                os.fsync(handle.fileno())
