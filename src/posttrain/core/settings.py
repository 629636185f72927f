"""Settings: frozen, strict, documented by the docstring under each field.

Every method and every step is a `Settings`: its constructor is its configuration and holds no logic. A key that is not
a field is refused with a suggestion.
"""

from __future__ import annotations

import hashlib
import json
import reprlib
from types import NoneType, UnionType
from typing import Any, ClassVar, Self, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo
from pydantic.fields import FieldInfo

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

    # Fields that take data; in a recipe the name of an earlier step that left records stands for its file.
    reads: ClassVar[tuple[str, ...]] = ()

    # Fields that name a model; in a recipe the name of an earlier step stands for the model that it left.
    loads: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def parse(cls, values: Any, where: str = "", implied: str | None = None) -> Self:
        """Validate a mapping from a recipe or the command line.

        Args:
            values: A mapping of field names to values; None means no values.
            where: How the reader finds the place, e.g. ``steps[2].train``.
            implied: A field whose name isn't written in the recipe, only what it holds.

        Raises:
            BadRequest: On an unknown key (with a suggestion), a missing key or a value that doesn't fit.
        """
        if values is None:
            values = {}
        if not isinstance(values, dict):
            raise BadRequest(
                f"'{where or cls.__name__}' expects `key: value` settings, not {values!r}.",
                f"Known keys: {', '.join(_fields(cls))}.",
            )
        try:
            return cls.model_validate(values, context=(where, implied))
        except ValidationError as error:
            raise _bad_request(cls, error, where) from None


def place_of(info: ValidationInfo) -> str:
    """Where in the recipe the field is that a validator of it looks at, e.g. ``steps[2].train.adapt``."""
    where, implied = info.context or ("", "")
    name = "" if info.field_name == implied else str(info.field_name)
    return f"{where}.{name}".strip(".")


def _bad_request(cls: type[BaseModel], error: ValidationError, where: str) -> BadRequest:
    """Turn pydantic's most telling complaint into a sentence with the path of the key."""
    complaints = error.errors()
    # An unknown key comes first: it is often the misspelt form of one that is then missing.
    first = next((each for each in complaints if each["type"] == "extra_forbidden"), complaints[0])
    path, owner, field = _locate(cls, first["loc"])
    full = f"{where}.{path}" if where and path else where or path
    if first["type"] == "extra_forbidden":
        return BadRequest(f"Unknown key '{full}'.", did_you_mean(str(first["loc"][-1]), _fields(owner)))
    meaning = _meaning(field) if field is not None else ""
    if first["type"] == "missing":
        return BadRequest(f"'{full}' is missing.", meaning)
    # A field that takes one thing or another complains once for each of them, all at the same path.
    same = [each["msg"].removeprefix("Value error, ") for each in complaints if _locate(cls, each["loc"])[0] == path]
    return BadRequest(
        f"'{full}' doesn't fit: {', or: '.join(dict.fromkeys(same))} (got {reprlib.repr(first['input'])}).",
        f"It means: {meaning}" if meaning else "",
    )


def _locate(cls: type[BaseModel], location: tuple[int | str, ...]) -> tuple[str, type[BaseModel], FieldInfo | None]:
    """The way to a complaint as written (``encoding.targets[1]``), the innermost settings on it, and their field."""
    path, owner, field = "", cls, None
    inside: type[BaseModel] | None = cls
    choice = False
    for key in location:
        if isinstance(key, int):
            path += f"[{key}]"
        elif choice:
            choice = False  # pydantic's name for one of the types of a union
        else:
            path += f".{key}" if path else key
            if inside is not None:
                owner, field = inside, _fields(inside).get(key)
                inside = _settings_in(field.annotation) if field is not None else None
                choice = field is not None and _is_choice(field.annotation)
    return path, owner, field


def _is_choice(annotation: Any) -> bool:
    """Whether an annotation is a union of more than something and None."""
    return get_origin(annotation) in (Union, UnionType) and len(set(get_args(annotation)) - {NoneType}) > 1


def _settings_in(annotation: Any) -> type[BaseModel] | None:
    """The settings class in an annotation, itself or as what a list or an optional value holds."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_settings_in(each) for each in get_args(annotation))
    return next((each for each in found if each is not None), None)


def _fields(cls: type[BaseModel]) -> dict[str, FieldInfo]:
    """A settings' fields under the names a recipe uses."""
    return {field.alias or name: field for name, field in cls.model_fields.items()}


def _meaning(field: FieldInfo) -> str:
    return " ".join((field.description or "").split())


def help_of(cls: type[BaseModel]) -> dict[str, str]:
    """Field name -> its help text (the docstring under the field)."""
    return {name: _meaning(field) for name, field in cls.model_fields.items()}


def fingerprint(value: Any) -> str:
    """A short content hash (16 hex digits) of any JSON-able value, independent of key order."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
