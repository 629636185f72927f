"""An item of a task, and the templates that make texts and values of it.

Templates are Jinja's, in its sandbox: they format what an item holds and can reach nothing else. A `Template` is text
with ``{{ }}`` in it and makes a text; an `Expression` is what would stand inside the braces and makes a value, such as
a list of choices. An unknown name is an error, never an empty text. Jinja's own filters are there, and

- ``regex_replace(pattern, replacement)``;
- ``int``, which refuses what is no number instead of calling it 0;
- ``class_number(names)``, the number of a class that is given by number or by name;
- ``normalized`` and ``token_f1(right)``, SQuAD's comparison of answers;
- ``each(expression)``, the value of an expression for each element of a list, which it calls ``it``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any

from jinja2 import StrictUndefined, TemplateSyntaxError, Undefined, pass_context
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import AfterValidator

from posttrain.core.errors import BadRequest
from posttrain.ops.answers import normalized, token_f1


def _regex_replace(text: str, pattern: str, replacement: str) -> str:
    return re.sub(pattern, replacement, text)


def _class_number(label: Any, names: Sequence[str]) -> int:
    """The number of a class. Files hold one and the same label as 1, "1", true or the class's name."""
    if isinstance(label, str) and label in names:
        return list(names).index(label)
    number = int(label)
    if not 0 <= number < len(names):
        raise ValueError(f"{label!r} is none of the classes {', '.join(names)}")
    return number


@pass_context
def _each(context: Context, values: Iterable[Any], expression: str) -> list[Any]:
    """What a list comprehension would be: Jinja's expressions have none."""
    made = [_expression(expression)({**context.get_all(), "it": value}) for value in values]
    for value in made:
        if isinstance(value, Undefined):
            str(value)  # raises, and says which name is unknown
    return made


_environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
_environment.filters |= {
    "regex_replace": _regex_replace,
    "int": int,
    "class_number": _class_number,
    "normalized": normalized,
    "token_f1": token_f1,
    "each": _each,
}


@cache
def _template(source: str) -> Callable[[Mapping[str, Any]], str]:
    return _environment.from_string(source).render


@cache
def _expression(source: str) -> Callable[[Mapping[str, Any]], Any]:
    return _environment.compile_expression(source, undefined_to_none=False)


def _checked(make: Callable[[str], Any]) -> AfterValidator:
    def check(source: str) -> str:
        try:
            make(source)
        except TemplateSyntaxError as error:
            raise ValueError(f"not a template: {error.message}") from None
        return source

    return AfterValidator(check)


Template = Annotated[str, _checked(_template)]
Expression = Annotated[str, _checked(_expression)]


@dataclass(frozen=True)
class Item:
    """One row of a task's data.

    Attributes:
        values: Its columns, under the names the task gives them.
        origin: Where it was read, ``file:line``.
        task: The task's file, for messages.
    """

    values: Mapping[str, Any]
    origin: str
    task: str

    def text(self, template: str, key: str) -> str:
        """The text a template makes of this item.

        Args:
            template: A `Template`.
            key: The task's key that holds it, for messages.

        Raises:
            BadRequest: If it can't be made; names task, key and item.
        """
        try:
            return _template(template)(self.values)
        except Exception as error:  # whatever a template comes across
            raise self.problem(key, f"{type(error).__name__}: {error}") from error

    def value(self, expression: str, key: str) -> Any:
        """The value of an expression, as `text`; what can be walked through only once becomes a list."""
        try:
            found = _expression(expression)(self.values)
            found = list(found) if isinstance(found, Iterator) else found
            for part in (found, *(found if isinstance(found, (list, tuple)) else ())):
                if isinstance(part, Undefined):
                    str(part)  # raises, and says which name is unknown
            return found
        except Exception as error:  # whatever an expression comes across
            raise self.problem(key, f"{type(error).__name__}: {error}") from error

    def with_values(self, more: Mapping[str, Any]) -> Item:
        """This item with further columns, which replace those of the same name."""
        return Item({**self.values, **more}, self.origin, self.task)

    def problem(self, key: str, what: str) -> BadRequest:
        """An error about what a key of the task makes of this item."""
        known = ", ".join(str(name) for name in self.values)
        return BadRequest(f"{self.task}: '{key}' doesn't work for {self.origin}: {what}.", f"The item has: {known}.")
