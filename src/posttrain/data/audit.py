"""Audit: what training would see of a data set, before it costs anything.

Counts rows, tokens and the share of tokens that carry loss, names rows that would be cut or not learned from, counts
repeated ones, and shows samples with the learned tokens marked. Out of scope: judging the content (`posttrain.guard`).
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from posttrain.data.chat_template import TrainOn, tokenize
from posttrain.data.dataset import Dataset, fingerprint
from posttrain.data.encoded import Encoded
from posttrain.data.record import Chat, Completion, Labelled, Pair, Preference, QuestionAnswer, Record, Tagged, Text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Token = tuple[str, bool]
"""A token's text, and whether it carries loss."""

_NAMED = 20  # origins listed per finding


@dataclass(frozen=True)
class Audit:
    """What was found.

    Attributes:
        source: The data set's reference.
        kind: The kind of its records.
        hash: SHA-256 of its content.
        rows: Number of records.
        tokens: All their tokens; both sides of a preference count.
        loss_tokens: Tokens that carry loss; None where loss isn't on tokens (labels, tags, answer spans).
        loss_share: `loss_tokens` / `tokens`.
        max_length: The limit that was checked; None if there was none.
        truncated: Rows longer than the limit.
        truncated_rows: Origins of the first of them.
        longest: Tokens of the longest row.
        longest_row: Its origin.
        median_length: Median of the rows' tokens.
        duplicates: Rows that repeat an earlier one, up to letter case and white space.
        no_loss: Rows none of whose tokens (within the limit) carries loss.
        no_loss_rows: Origins of the first of them.
        samples: The first rows, token by token.
    """

    source: str
    kind: str
    hash: str
    rows: int
    tokens: int
    loss_tokens: int | None
    loss_share: float | None
    max_length: int | None
    truncated: int
    truncated_rows: list[str]
    longest: int
    longest_row: str
    median_length: float
    duplicates: int
    no_loss: int
    no_loss_rows: list[str]
    samples: list[list[Token]]

    def to_dict(self) -> dict[str, Any]:
        """Everything with JSON's types; the key `sample` holds the first sample with its learned tokens marked."""
        return {**asdict(self), "sample": self.render_sample()}

    def render_sample(self, index: int = 0) -> str:
        """A sample as text, its runs of learned tokens in ⟦…⟧."""
        if not self.samples:
            return ""
        text, learning = [], False
        for token, learned in self.samples[index]:
            if learned != learning:
                text.append("⟦" if learned else "⟧")
            text.append(token)
            learning = learned
        return "".join(text) + ("⟧" if learning else "")


def audit(
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int | None = None,
    train_on: TrainOn = "completion",
    chat: bool | None = None,
    samples: int = 1,
    encoded: Sequence[Encoded] | None = None,
) -> Audit:
    """Audit a data set as `posttrain.data.chat_template.encode_all` would encode it.

    Args:
        dataset: The set.
        tokenizer: The model's tokenizer.
        max_length: The limit that training would set on a sequence.
        train_on: Learn the completion, or every token.
        chat: Render through the chat template; None does so for messages only.
        samples: How many rows to show token by token.
        encoded: One sequence a row, from an objective that makes its own; None for what a language model would read.

    Raises:
        BadRequest: If the chat template is missing or fails on a row.
    """
    learned = not isinstance(dataset[0], (Labelled, Tagged, QuestionAnswer, Pair))
    rows = list(_rows(dataset, tokenizer, train_on, chat)) if encoded is None else [[each] for each in encoded]
    lengths = [max(map(len, sides)) for sides in rows]
    long = [sides[0].origin for sides, length in zip(rows, lengths) if max_length is not None and length > max_length]
    no_loss = [s[0].origin for s in rows if learned and not any(any(side.loss_mask[:max_length]) for side in s)]
    tokens = sum(len(side) for sides in rows for side in sides)
    loss_tokens = sum(side.loss_tokens for sides in rows for side in sides) if learned else None
    longest = max(range(len(rows)), key=lengths.__getitem__)
    shown = [side for sides in rows[:samples] for side in sides]
    return Audit(
        source=dataset.source,
        kind=dataset.kind,
        hash=dataset.hash,
        rows=len(rows),
        tokens=tokens,
        loss_tokens=loss_tokens,
        loss_share=None if loss_tokens is None else loss_tokens / tokens,
        max_length=max_length,
        truncated=len(long),
        truncated_rows=long[:_NAMED],
        longest=lengths[longest],
        longest_row=rows[longest][0].origin,
        median_length=statistics.median(lengths),
        duplicates=len(dataset) - len({fingerprint(record) for record in dataset}),
        no_loss=len(no_loss),
        no_loss_rows=no_loss[:_NAMED],
        samples=[list(zip(_texts(side.input_ids, tokenizer), side.loss_mask)) for side in shown],
    )


def _rows(
    dataset: Dataset, tokenizer: PreTrainedTokenizerBase, train_on: TrainOn, chat: bool | None
) -> Iterator[list[Encoded]]:
    """Each record's sequences: one, or the two sides of a preference."""
    flat: list[Record] = []
    for record in dataset:
        if isinstance(record, Preference):
            flat.extend(record.sides())
        elif isinstance(record, (Text, Completion, Chat)):
            flat.append(record)
        else:
            flat.append(Text(_input(record), record.origin))
    encoded = tokenize(flat, tokenizer, train_on=train_on, chat=chat, append_eos=isinstance(dataset[0], Text))
    for record in dataset:
        sides = [next(encoded) for _ in range(2 if isinstance(record, Preference) else 1)]
        if not isinstance(record, (Text, Completion, Chat, Preference)):
            sides[0].loss_mask = [False] * len(sides[0])
        yield sides


def _input(record: Labelled | Tagged | QuestionAnswer | Pair) -> str:
    """What a network reads of a record whose loss isn't on tokens, or is on those of another sequence."""
    if isinstance(record, Labelled):
        return record.text if record.text_pair is None else f"{record.text}\n{record.text_pair}"
    if isinstance(record, Tagged):
        return " ".join(record.tokens)
    if isinstance(record, QuestionAnswer):
        return f"{record.question}\n{record.context}"
    return f"{record.source}\n{record.target}"


def _texts(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Each token's share of the decoded text; a character made of several tokens stands with the last of them."""
    texts: list[str] = []
    window, done = 0, 0  # ids[window:done] is decoded again as left context, which decides about spaces
    for end in range(1, len(ids) + 1):
        before, now = (
            str(tokenizer.decode(ids[window:stop], clean_up_tokenization_spaces=False)) for stop in (done, end)
        )
        if now.endswith("\ufffd") and end < len(ids):
            texts.append("")
        else:
            texts.append(now[len(before) :])
            window, done = done, end
    return texts
