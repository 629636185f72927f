"""From records to tokens with loss masks: plain text, prompt and completion, and conversations by chat template.

Plain records follow TRL's `SFTTrainer` (1.16): the ids are ``tokenizer(prompt + completion + eos)``, and learning
starts where these leave the ids of ``tokenizer(prompt)``, so a token merged across the boundary is learned.
Conversations have exactly the ids of ``tokenizer.apply_chat_template(messages)``; of each assistant message everything
after the header is learned, the end-of-turn token included. Where a template carries ``{% generation %}`` marks, they
decide.

Out of scope: images, and sliding a window over text for scoring (`posttrain.measure`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from jinja2 import TemplateError

from posttrain.core.errors import BadRequest
from posttrain.core.events import message
from posttrain.data.assistant_spans import Span, assistant_spans
from posttrain.data.encoded import Encoded
from posttrain.data.packing import chunk_text
from posttrain.data.prefix import common_prefix
from posttrain.data.record import Chat, Completion, Dialogue, Record, Text, kind_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TooLong: TypeAlias = Literal["error", "skip", "truncate", "split"]
TrainOn: TypeAlias = Literal["completion", "all"]

_GENERATION_MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")
_BATCH = 1000  # records tokenized at once: enough for the tokenizer's threads, little enough to keep offsets in memory


@dataclass
class EncodedSet:
    """A data set as tokens, with an account of every record that isn't there whole.

    Attributes:
        items: The sequences, in the records' order; each carries loss.
        skipped: Origins of records left out because they were too long.
        truncated: Origins of records that were cut.
        without_loss: Origins of records left out because none of their tokens is learned.
    """

    items: list[Encoded]
    skipped: list[str]
    truncated: list[str]
    without_loss: list[str]


def render(
    messages: Dialogue,
    tokenizer: PreTrainedTokenizerBase,
    add_generation_prompt: bool = False,
    tools: list[dict[str, Any]] | None = None,
) -> str:
    """A conversation as the text the model reads.

    Args:
        messages: The turns.
        tokenizer: Its chat template is used.
        add_generation_prompt: End with the header of the assistant's next message.
        tools: JSON schemas of tools, for templates that print them.

    Raises:
        BadRequest: If the tokenizer has no chat template, or the template refuses the conversation.
    """
    _template(tokenizer)
    try:
        text = tokenizer.apply_chat_template(
            messages, tools=[*tools] if tools else None, tokenize=False, add_generation_prompt=add_generation_prompt
        )
    except (TemplateError, TypeError, ValueError) as error:
        raise BadRequest(f"the chat template refuses this conversation: {error}.") from error
    return str(text)


def _template(tokenizer: PreTrainedTokenizerBase) -> str:
    if not tokenizer.chat_template:
        raise BadRequest(
            "The model's tokenizer has no chat template, so messages can't be rendered.",
            "Use an instruction-tuned model, or data with prompt and completion columns.",
        )
    return tokenizer.get_chat_template()


def encode(
    record: Record,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int | None,
    too_long: TooLong = "error",
    train_on: TrainOn = "completion",
    chat: bool | None = None,
    append_eos: bool = True,
) -> Encoded | None:
    """One record as tokens.

    Args:
        record: A Text, Completion or Chat.
        tokenizer: A fast tokenizer.
        max_length: The most tokens a sequence may have; None for no limit.
        too_long: What happens to a longer one: an error, None in its place, or its first `max_length` tokens.
        train_on: Learn the completion (the assistant's messages), or every token.
        chat: Render through the chat template; None does so for messages and leaves plain text plain.
        append_eos: End a Text with the end-of-sequence token.

    Returns:
        The tokens; None if the record was skipped, or nothing to learn was left of it after truncation.

    Raises:
        BadRequest: If the record is too long, of a kind that isn't language modelling, or the template fails on it.
    """
    if too_long == "split":
        raise BadRequest("One record can't be split into several.", "Encode the whole data set to split long texts.")
    (encoded,) = tokenize([record], tokenizer, train_on=train_on, chat=chat, append_eos=append_eos)
    fitting = _fit(encoded, record, max_length, too_long)
    if not fitting or (len(fitting[0]) < len(encoded) and not fitting[0].loss_tokens):
        return None
    return fitting[0]


def encode_all(
    records: Sequence[Record],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int | None,
    too_long: TooLong = "error",
    train_on: TrainOn = "completion",
    chat: bool | None = None,
    append_eos: bool = True,
) -> EncodedSet:
    """A whole set as tokens; the arguments are those of `encode`.

    ``too_long="split"`` cuts long Texts into sequences of `max_length` that overlap by one token, so that every token
    but the first is learned once. Records left out or cut are counted and announced, never silently lost.

    Raises:
        BadRequest: As `encode` does, and if no token of the whole set carries loss.
    """
    result = EncodedSet([], [], [], [])
    for encoded, record in zip(
        tokenize(records, tokenizer, train_on=train_on, chat=chat, append_eos=append_eos), records
    ):
        parts = _fit(encoded, record, max_length, too_long)
        if not parts:
            result.skipped.append(record.origin)
        elif not any(part.loss_tokens for part in parts):
            result.without_loss.append(record.origin)
        else:
            if sum(map(len, parts)) < len(encoded):
                result.truncated.append(record.origin)
            result.items.extend(part for part in parts if part.loss_tokens)
    if not result.items:
        raise BadRequest(
            f"No token of the {len(records)} records carries loss, so nothing would be learned: "
            f"{len(result.skipped)} are longer than max_length={max_length}, {len(result.without_loss)} have no "
            f"completion or assistant's message{'' if max_length is None else ' within it'}.",
            "`posttrain audit` shows which tokens carry loss; --set train_on=all learns every token.",
        )
    for origins, what in (
        (result.skipped, f"left out, longer than max_length={max_length}"),
        (result.truncated, f"cut to max_length={max_length}"),
        (result.without_loss, "left out, no token of theirs carries loss"),
    ):
        if origins:
            message(f"{len(origins)} of {len(records)} records {what} (first: {origins[0]}).", level="warning")
    return result


def _fit(encoded: Encoded, record: Record, max_length: int | None, too_long: TooLong) -> list[Encoded]:
    """The sequences to use in place of one that may be too long; none if it is skipped."""
    if max_length is None or len(encoded) <= max_length:
        return [encoded]
    if too_long == "skip":
        return []
    if too_long == "truncate":
        return [Encoded(encoded.input_ids[:max_length], encoded.loss_mask[:max_length], encoded.origin)]
    if too_long == "split" and isinstance(record, Text):
        return chunk_text(encoded.input_ids, max_length, encoded.origin)
    remedy = "truncate, skip or split" if isinstance(record, Text) else "truncate or skip"
    raise BadRequest(
        f"{encoded.origin}: {len(encoded)} tokens, but max_length is {max_length}.",
        f"Raise max_length, or decide with --set too_long=… ({remedy}).",
    )


def tokenize(
    records: Sequence[Record],
    tokenizer: PreTrainedTokenizerBase,
    *,
    train_on: TrainOn = "completion",
    chat: bool | None = None,
    append_eos: bool = True,
) -> Iterator[Encoded]:
    """Records of any length as tokens, in order; the arguments are those of `encode`.

    Raises:
        BadRequest: On a record that isn't language modelling, or on which the chat template fails.
    """
    for start in range(0, len(records), _BATCH):
        batch = records[start : start + _BATCH]
        conversations = [_conversation(record, chat) for record in batch]
        texts = [r for r, c in zip(batch, conversations) if c is None and isinstance(r, (Text, Completion))]
        plain = iter(_plain(texts, tokenizer, append_eos))
        chats = iter(_chats([c for c in conversations if c is not None], tokenizer, train_on))
        for record, conversation in zip(batch, conversations):
            ids, mask = next(plain if conversation is None else chats)
            if train_on == "all":
                mask = [True] * len(ids)
            mask[:1] = [False] * len(mask[:1])
            yield Encoded(ids, mask, record.origin)


@dataclass
class _Conversation:
    """Messages, and the index of the first that may be learned."""

    messages: Dialogue
    first: int
    tools: list[dict[str, Any]] | None
    origin: str


def _conversation(record: Record, chat: bool | None) -> _Conversation | None:
    """The record as a conversation, or None if it stays plain text."""
    if isinstance(record, Text):
        return None
    if isinstance(record, Chat):
        if chat is False:
            raise BadRequest(
                f"{record.origin}: messages can't be encoded without the chat template.", "Leave chat out."
            )
        return _Conversation(record.messages, 0, record.tools, record.origin)
    if isinstance(record, Completion):
        prompt, completion = record.prompt, record.completion
        if isinstance(prompt, str) and isinstance(completion, str):
            if not chat:
                return None
            prompt = [{"role": "user", "content": prompt}]
            completion = [{"role": "assistant", "content": completion}]
        return _Conversation([*prompt, *completion], len(prompt), None, record.origin)  # type: ignore[list-item]
    raise BadRequest(
        f"{record.origin}: a {kind_of(record)} record is not text to continue.",
        "Language modelling takes text, completion or chat records; name the columns, as in "
        "columns: {prompt: SOURCE, completion: TARGET}.",
    )


def _plain(
    records: list[Text | Completion], tokenizer: PreTrainedTokenizerBase, append_eos: bool
) -> list[tuple[list[int], list[bool]]]:
    """Ids and masks of Texts and plain Completions."""
    if not records:
        return []
    end = "" if _ends_itself(tokenizer) else tokenizer.eos_token or ""
    wholes = []
    for record in records:
        text = record.text if isinstance(record, Text) else f"{record.prompt}{record.completion}"
        last = record.text if isinstance(record, Text) else str(record.completion)
        closes = append_eos or isinstance(record, Completion)
        wholes.append(text + end if closes and not (end and last.endswith(end)) else text)
    prompts = iter(_ids([str(r.prompt) for r in records if isinstance(r, Completion)], tokenizer))
    encoded = []
    for record, ids in zip(records, _ids(wholes, tokenizer)):
        shared = common_prefix(next(prompts), ids) if isinstance(record, Completion) else 0
        encoded.append((ids, [False] * shared + [True] * (len(ids) - shared)))
    return encoded


def _ids(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    return tokenizer(texts, return_attention_mask=False, verbose=False)["input_ids"] if texts else []


def _ends_itself(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer appends the end-of-sequence token on its own (T5 does)."""
    return tokenizer.eos_token_id is not None and tokenizer("a")["input_ids"][-1:] == [tokenizer.eos_token_id]


def _chats(
    conversations: list[_Conversation], tokenizer: PreTrainedTokenizerBase, train_on: TrainOn
) -> list[tuple[list[int], list[bool]]]:
    """Ids and masks of conversations."""
    if not conversations:
        return []
    marked = bool(_GENERATION_MARKS.search(_template(tokenizer)))
    texts: list[str] = []
    spans: list[list[Span]] = []
    for conversation in conversations:
        try:
            text = render(conversation.messages, tokenizer, False, conversation.tools)
            spans.append([] if train_on == "all" else _spans(conversation, text, tokenizer, marked))
        except BadRequest as error:
            raise BadRequest(f"{conversation.origin}: {error.problem}", error.suggestion) from error
        texts.append(text)
    batch = tokenizer(
        texts, add_special_tokens=False, return_attention_mask=False, return_offsets_mapping=True, verbose=False
    )
    return [
        (ids, _overlapping(offsets, wanted))
        for ids, offsets, wanted in zip(batch["input_ids"], batch["offset_mapping"], spans)
    ]


def _spans(conversation: _Conversation, text: str, tokenizer: PreTrainedTokenizerBase, marked: bool) -> list[Span]:
    """Character spans that are learned: the template's own marks, or the assistant's messages."""
    messages, first = conversation.messages, conversation.first
    assistants = [i for i, turn in enumerate(messages) if turn["role"] == "assistant"]
    learned = [i for i in assistants if i >= first]
    if marked and learned == assistants:  # the marks can't tell a prompt's answers from those to be learned
        return _marked_spans(conversation, tokenizer)
    return assistant_spans(
        messages,
        learned,
        text,
        lambda part, header: render(part, tokenizer, header, conversation.tools),
        has_header="add_generation_prompt" in _template(tokenizer),
        special_tokens=tokenizer.all_special_tokens,
    )


def _marked_spans(conversation: _Conversation, tokenizer: PreTrainedTokenizerBase) -> list[Span]:
    output: Any = tokenizer.apply_chat_template(
        conversation.messages,
        tools=[*conversation.tools] if conversation.tools else None,
        return_dict=True,
        return_assistant_tokens_mask=True,
        tokenizer_kwargs={"return_offsets_mapping": True},
    )
    learned = zip(output["assistant_masks"], output["offset_mapping"])
    return [(start, end) for carries, (start, end) in learned if carries and end > start]


def _overlapping(offsets: list[Span], spans: list[Span]) -> list[bool]:
    """For each token's (start, end), whether it has a character in common with one of the ascending spans."""
    mask, position = [], 0
    for start, end in offsets:
        while position < len(spans) and spans[position][1] <= start:
            position += 1
        mask.append(position < len(spans) and end > spans[position][0])
    return mask
