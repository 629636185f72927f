"""Records with a prompt and an answer, whatever their kind: completions, conversations, sources with targets."""

from __future__ import annotations

from typing import Any

from posttrain.core.errors import BadRequest
from posttrain.data.record import Chat, Completion, Pair, Record, kind_of


def answered(record: Record) -> Chat | Completion:
    """The record as one with an answer; a source and its target are a completion.

    Raises:
        BadRequest: If it is of another kind.
    """
    if isinstance(record, Pair):
        return Completion(record.source, record.target, origin=record.origin)
    if isinstance(record, (Chat, Completion)):
        return record
    raise BadRequest(
        f"{record.origin}: a {kind_of(record)} record has no answer to a prompt.",
        "Give prompt + completion, source + target, or conversations.",
    )


def answer_bytes(record: Chat | Completion) -> int | None:
    """Size of the answers in UTF-8; None if one isn't plain text."""
    if isinstance(record, Completion) and isinstance(record.completion, str):
        answers: list[Any] = [record.completion]
    else:
        turns = record.messages if isinstance(record, Chat) else record.completion
        answers = [turn.get("content") for turn in turns if isinstance(turn, dict) and turn["role"] == "assistant"]
    if not all(isinstance(answer, str) for answer in answers):
        return None
    return sum(len(answer.encode("utf-8", "surrogatepass")) for answer in answers)
