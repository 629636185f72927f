"""What a setting accepts, in words: read off a settings class's fields."""

from __future__ import annotations

import types
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from posttrain.core import catalog
from posttrain.core.files import jsonable
from posttrain.core.settings import help_of

_WORDS = {str: "text", int: "whole number", float: "number", bool: "true or false", type(None): "none"}
_BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<", "multiple_of": "multiple of", "min_length": "length ≥"}


def settings_of(cls: type[BaseModel]) -> list[dict[str, Any]]:
    """Every field of a settings class: its name as written in a recipe, type, default, whether it is required, help."""
    meanings = help_of(cls)
    return [
        {
            "name": field.alias or name,
            "type": _type_of(field),
            "default": None if field.is_required() else _default(field),
            "required": field.is_required(),
            "help": meanings[name],
        }
        for name, field in cls.model_fields.items()
    ]


def _default(field: FieldInfo) -> Any:
    value = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, BaseModel) and ":" not in catalog.term_of(value):
        return catalog.dump(value)  # a method, as a recipe writes it
    return jsonable(value)


def _type_of(field: FieldInfo) -> str:
    bounds = [
        f"{sign} {getattr(item, key)}" for item in field.metadata for key, sign in _BOUNDS.items() if hasattr(item, key)
    ]
    return ", ".join([_annotated(field.annotation, field.metadata), *bounds])


def _annotated(annotation: Any, metadata: Iterable[Any]) -> str:
    """A type in words; a field made by `catalog.block` or `catalog.blocks` says so in its metadata."""
    family = next((item.family for item in metadata if isinstance(item, catalog.FamilyOf)), None)
    if family is None:
        return _words(annotation)
    if get_origin(annotation) is list:
        return f"list of {family} methods"
    return f"one of {family}: {', '.join(catalog.terms(family))}"


def _words(annotation: Any) -> str:
    if annotation in _WORDS:
        return _WORDS[annotation]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _annotated(arguments[0], arguments[1:])
    if origin is Literal:
        return " | ".join(map(str, arguments))
    if origin in (Union, types.UnionType):
        return " or ".join(map(_words, arguments))
    if origin in (list, tuple, set):
        return f"list of {' and '.join(_words(each) for each in arguments if each is not Ellipsis)}"
    if origin is dict:
        return f"mapping of {_words(arguments[0])} to {_words(arguments[1])}"
    return "any" if annotation is Any else getattr(annotation, "__name__", str(annotation))
