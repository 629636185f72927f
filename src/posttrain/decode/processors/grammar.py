"""Grammar: the text is a sentence of a context-free grammar in Lark's notation.

Compiled by llguidance, whose dialect of Lark's notation it is: rules in lower case, terminals in capitals, `start` the
first of them, literals in double quotes, regular expressions between slashes, and %json {…} for a part that is JSON.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from posttrain.core.errors import BadRequest
from posttrain.decode.processors._constrained import Constrained, library


class Grammar(Constrained):
    """Write a text that a grammar describes."""

    lark: str = Field(min_length=1)
    """The grammar, as in 'start: "yes" | "no"', or a file that holds it, NAME.lark."""

    @field_validator("lark", mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        """The content of a file in place of its name, so that a recipe notices when it changes."""
        if not (isinstance(value, Path) or (isinstance(value, str) and value.endswith(".lark"))):
            return value
        try:
            return Path(value).read_text(encoding="utf-8")
        except (FileNotFoundError, IsADirectoryError):
            raise BadRequest(f"There is no grammar file {value}.") from None
        except UnicodeDecodeError as error:
            raise BadRequest(f"{value} is not UTF-8 text: {error}.") from None

    def language(self) -> str:
        grammar: str = library().LLMatcher.grammar_from_lark(self.lark)
        return grammar
