"""Settings: frozen, strict, documented by the docstring under each field.

Every method and every step is a `Settings`: its constructor is its configuration and holds no logic. A key that is not
a field is refused with a suggestion.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from posttrain.core.errors import BadRequest, did_you_mean


class Settings(BaseModel):
    """A frozen set of named, documented, validated values."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        arbitrary_types_allowed=True,
        validate_default=True,
        # `model` is the field's standard term here; pydantic's own prefix would forbid it.
        protected_namespaces=(),
    )

    @classmethod
    def parse(cls, values: Any, where: str = "") -> Self:
        """Validate a mapping from a recipe or the command line.

        Args:
            values: A mapping of field names to values; None means no values.
            where: How the reader finds the place, e.g. ``steps[2].train``.

        Raises:
            BadRequest: On an unknown key (with a suggestion), a missing key or a value that doesn't fit.
        """
        if values is None:
            values = {}
        if not isinstance(values, dict):
            raise BadRequest(
                f"{where or cls.__name__} expects `key: value` settings, not {values!r}.",
                f"Known keys: {', '.join(cls.model_fields)}.",
            )
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise _bad_request(cls, error, where) from None


def _bad_request(cls: type[BaseModel], error: ValidationError, where: str) -> BadRequest:
    """Turn pydantic's first complaint into a sentence with the path of the key."""
    first = error.errors()[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, BadRequest):
        return cause
    path = ".".join(str(p) for p in first["loc"])
    full = f"{where}.{path}" if where and path else where or path
    if first["type"] == "extra_forbidden":
        return BadRequest(f"Unknown key '{full}'.", did_you_mean(str(first["loc"][-1]), cls.model_fields))
    if first["type"] == "missing":
        return BadRequest(f"'{full}' is missing.", help_of(cls).get(str(first["loc"][-1]), ""))
    message = first["msg"].removeprefix("Value error, ")
    return BadRequest(f"'{full}' doesn't fit: {message} (got {first['input']!r}).", _field_help(cls, first["loc"]))


def _field_help(cls: type[BaseModel], location: tuple[int | str, ...]) -> str:
    text = help_of(cls).get(str(location[0]), "") if location else ""
    return text and f"It means: {text}"


def help_of(cls: type[BaseModel]) -> dict[str, str]:
    """Field name -> its help text (the docstring under the field)."""
    return {name: " ".join((f.description or "").split()) for name, f in cls.model_fields.items()}


def fingerprint(value: Any) -> str:
    """A short content hash (16 hex digits) of any JSON-able value, independent of key order."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
