"""Where the assistant's messages stand in a rendered conversation, if its template has no ``{% generation %}`` marks.

A message's span runs from after its header (the generation prompt) through the end-of-turn token and whatever the
template writes after it before the next turn. It is found by rendering the conversation up to the message: if that is a
prefix of the whole, the span is what the message added. Templates that aren't prefix-stable (they strip earlier
thoughts, or write a final token only after the last turn) are resolved by rendering once more with a marker in the
message's place. What neither way resolves is refused, never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from posttrain.core.errors import BadRequest
from posttrain.data.prefix import common_prefix
from posttrain.data.record import Dialogue

Span = tuple[int, int]
Draw = Callable[[Dialogue, bool], str]
"""Renders messages; the flag asks for the generation prompt."""

_MARKER = "posttrainMarkerQZJX"


def assistant_spans(
    messages: Dialogue,
    learned: Iterable[int],
    full: str,
    draw: Draw,
    *,
    has_header: bool,
    special_tokens: Iterable[str],
) -> list[Span]:
    """Character spans of some of the assistant's messages.

    Args:
        messages: The conversation.
        learned: Indices of the messages to find, ascending.
        full: The rendered conversation.
        draw: Renders messages; raises BadRequest where the template refuses.
        has_header: Whether the template writes a generation prompt when asked.
        special_tokens: The tokenizer's special tokens, which close a turn.

    Returns:
        One ``(start, end)`` per message, ascending and disjoint.

    Raises:
        BadRequest: If a message can't be located with certainty.
    """
    spans: list[Span] = []
    for index in learned:
        start = _start_by_prefix(messages, index, full, draw) if has_header else None
        end = _end_by_prefix(messages, index, full, draw)
        if start is None or end is None:
            marked = _by_marker(messages, index, full, draw, special_tokens)
            if marked is None:
                raise _unresolved(index)
            start, end = marked[0] if start is None else start, marked[1] if end is None else end
        if not (spans[-1][1] if spans else 0) <= start < end <= len(full):
            raise _unresolved(index)
        spans.append((start, end))
    return spans


def _unresolved(index: int) -> BadRequest:
    return BadRequest(
        f"the chat template doesn't show where message {index + 1} begins and ends.",
        "Put {% generation %} marks into the template, or learn every token with --set train_on=all.",
    )


def _rendered(draw: Draw, messages: Dialogue, header: bool) -> str | None:
    if not messages:
        return None
    try:
        return draw(messages, header)
    except BadRequest:  # templates may refuse part of a conversation, for example one that ends with a tool's answer
        return None


def _start_by_prefix(messages: Dialogue, index: int, full: str, draw: Draw) -> int | None:
    before = _rendered(draw, messages[:index], True)
    return len(before) if before is not None and full.startswith(before) else None


def _end_by_prefix(messages: Dialogue, index: int, full: str, draw: Draw) -> int | None:
    if index == len(messages) - 1:
        return len(full)
    through = _rendered(draw, messages[: index + 1], False)
    return len(through) if through is not None and full.startswith(through) else None


def _by_marker(
    messages: Dialogue, index: int, full: str, draw: Draw, special_tokens: Iterable[str]
) -> tuple[int, int] | None:
    """The span of message `index`, from where a marker lands that is rendered in place of its content."""
    marker = {**messages[index], "content": _MARKER}
    whole = _rendered(draw, [*messages[:index], marker, *messages[index + 1 :]], False)
    if whole is None or whole.count(_MARKER) != 1:
        return None
    before, after = whole.split(_MARKER)
    if not full.startswith(before) or not full.endswith(after) or len(before) + len(after) >= len(full):
        return None
    content_end = len(full) - len(after)
    if index == len(messages) - 1:
        return len(before), len(full)
    last = _rendered(draw, [*messages[:index], marker], False)  # the same message as the last one
    if last is None or last.count(_MARKER) != 1:
        return None
    closing = last.split(_MARKER)[1]
    if after.startswith(closing):
        return len(before), content_end + len(closing)
    # The last turn ends otherwise than this one, which then ends with its first special token, and with the white space
    # behind it where the last turn has the same.
    tokens = "|".join(re.escape(token) for token in sorted(special_tokens, key=len, reverse=True))
    token = re.match(rf"\s*(?:{tokens})", after) if tokens else None
    if token is None:
        return None
    shared = after[token.end() : common_prefix(after, closing)]
    return len(before), content_end + token.end() + len(shared) - len(shared.lstrip())
