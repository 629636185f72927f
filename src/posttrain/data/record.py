"""Records: what one line of a data set says, whatever its file looked like.

Eight kinds cover the tasks of this toolkit. A record carries its origin (``file:line``), which takes no part in
equality.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, TypeAlias, get_args

Message: TypeAlias = dict[str, Any]
"""One turn of a conversation: `role`, `content`, and whatever else the chat template reads (`tool_calls` …)."""

Dialogue: TypeAlias = list[Message]


@dataclass(frozen=True)
class Text:
    """Running text: every token is learned.

    Attributes:
        text: The text.
        spans: Parts of it that are of interest, as the indices of each one's first character and of the one behind its
            last; None if nobody marked any.
    """

    text: str
    spans: list[tuple[int, int]] | None = field(default=None, kw_only=True)
    origin: str = field(default="", compare=False)


@dataclass(frozen=True)
class Completion:
    """A prompt and what should follow it; only what follows is learned.

    Attributes:
        prompt: Text, or the messages that come before.
        completion: Text, or the messages to be learned when the prompt is messages.
        label: Whether the completion is desirable, for unpaired preferences (KTO); None if nobody judged it.
    """

    prompt: str | Dialogue
    completion: str | Dialogue
    label: bool | None = None
    origin: str = field(default="", compare=False)


@dataclass(frozen=True)
class Chat:
    """A conversation; the assistant's messages are learned.

    Attributes:
        messages: The turns in order.
        tools: JSON schemas of the tools the assistant may call, for templates that print them.
    """

    messages: Dialogue
    tools: list[dict[str, Any]] | None = None
    origin: str = field(default="", compare=False)


@dataclass(frozen=True)
class Preference:
    """Two answers to one prompt, the first of which is better. All three are text, or all three are messages."""

    prompt: str | Dialogue
    chosen: str | Dialogue
    rejected: str | Dialogue
    origin: str = field(default="", compare=False)

    def sides(self) -> tuple[Completion, Completion]:
        """The chosen and the rejected answer, each as a completion of the prompt."""
        return (
            Completion(self.prompt, self.chosen, label=True, origin=self.origin),
            Completion(self.prompt, self.rejected, label=False, origin=self.origin),
        )


@dataclass(frozen=True)
class Labelled:
    """A text, or a pair of texts, and what it is.

    Attributes:
        text: The text.
        labels: One class (int or name), several classes (a list), or a number to predict (float).
        text_pair: The second text of a pair task such as entailment.
    """

    text: str
    labels: int | str | float | list[int | str]
    text_pair: str | None = None
    origin: str = field(default="", compare=False)


@dataclass(frozen=True)
class Tagged:
    """Words with one tag each; `tags` is as long as `tokens`."""

    tokens: list[str]
    tags: list[str | int]
    origin: str = field(default="", compare=False)


@dataclass(frozen=True)
class QuestionAnswer:
    """A question whose answers are spans of the context.

    Attributes:
        question: The question.
        context: The passage.
        answers: Accepted answers, each exactly as it stands in the context; empty where there is no answer.
        starts: For each answer, the index of its first character in `context`.
    """

    question: str
    context: str
    answers: list[str]
    starts: list[int]
    origin: str = field(default="", compare=False)


@dataclass(frozen=True)
class Pair:
    """A text and the text to be made of it: translation, summarisation."""

    source: str
    target: str
    origin: str = field(default="", compare=False)


Record: TypeAlias = Text | Completion | Chat | Preference | Labelled | Tagged | QuestionAnswer | Pair

_KINDS: Mapping[str, type[Record]] = MappingProxyType(
    {
        "text": Text,
        "completion": Completion,
        "chat": Chat,
        "preference": Preference,
        "labelled": Labelled,
        "tagged": Tagged,
        "question_answer": QuestionAnswer,
        "pair": Pair,
    }
)
assert set(_KINDS.values()) == set(get_args(Record))


def kinds() -> Mapping[str, type[Record]]:
    """The name of every kind of record and its class."""
    return _KINDS


def kind_of(record: Record) -> str:
    """The name of a record's kind."""
    return next(name for name, cls in _KINDS.items() if type(record) is cls)


def content(record: Record) -> str:
    """All of a record but its origin, as canonical JSON: equal for equal records, in every process."""
    values = {f.name: getattr(record, f.name) for f in fields(record) if f.name != "origin"}
    return json.dumps([kind_of(record), values], sort_keys=True, ensure_ascii=False, separators=(",", ":"))
