"""Messages as OpenAI (`role`, `content`) and ShareGPT (`from`, `value`) write them, brought to one form.

Out of scope: images and sound; a part that isn't text is refused.
"""

from __future__ import annotations

import json
from typing import Any

from posttrain.core.errors import BadRequest, did_you_mean
from posttrain.data.record import Dialogue, Message

_ROLES = {
    "system": "system",
    "developer": "developer",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}


def type_name(value: Any) -> str:
    """What a JSON value is, for error messages."""
    if value is None:
        return "null"
    names = {list: "a list", dict: "an object", str: "text", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(value), type(value).__name__)


def as_text(value: str | Dialogue) -> str:
    """A prompt or an answer for the eye: messages with their roles, a single one without."""
    if isinstance(value, str):
        return value
    if len(value) == 1:
        return str(value[0]["content"])
    return "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in value)


def as_dialogue(value: Any, place: str) -> Dialogue:
    """A list of messages (or a single one) with `role` and `content`; other keys are kept for the chat template.

    Args:
        value: What the file holds.
        place: File, line and column for error messages.

    Raises:
        BadRequest: If it isn't messages, a role is unknown, or a content is not text.
    """
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list) or not value or not all(isinstance(item, dict) for item in value):
        raise BadRequest(
            f"{place} must be a list of messages, not {'an empty list' if value == [] else type_name(value)}.",
            'A message is {"role": "user", "content": "…"} or {"from": "human", "value": "…"}.',
        )
    return [_message(item, f"{place}, message {number},") for number, item in enumerate(value, start=1)]


def _message(item: dict[str, Any], place: str) -> Message:
    item = {key: value for key, value in item.items() if value is not None}  # Parquet fills absent keys with null
    role, content = item.pop("role", None) or item.pop("from", None), item.pop("content", None)
    if content is None:
        content = item.pop("value", None)
    if role not in _ROLES:
        raise BadRequest(f"{place} has the role {role!r}.", did_you_mean(str(role), _ROLES))
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        content = "".join(str(part.get("text", "")) for part in content)
    if content is None and "tool_calls" in item:
        content = ""
    if not isinstance(content, str):
        raise BadRequest(f"{place} must have text as its content, not {type_name(content)}.")
    return {"role": _ROLES[role], "content": content, **item}


def as_tools(value: Any, origin: str) -> list[dict[str, Any]] | None:
    """The tools of a conversation, given as a list of JSON schemas or as such a list in JSON; None when there are none.

    Raises:
        BadRequest: If it is something else.
    """
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise BadRequest(f"{origin}: 'tools' is not valid JSON: {error.msg} at column {error.colno}.") from None
    if not value or isinstance(value, str):
        return None
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise BadRequest(f"{origin}: 'tools' must be a list of objects, not {type_name(value)}.")
    return value
