"""JSON schema: the text is JSON that a schema describes (https://json-schema.org, draft 2020-12).

Compiled by llguidance. Keys come in the schema's order, and those it requires are written for the model; strings and
numbers are the model's. A keyword that llguidance knows of but can't keep to is refused, not ignored.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from posttrain.core.errors import BadRequest
from posttrain.decode.processors._constrained import Constrained, library

_LAYOUTS: dict[str, dict[str, Any]] = {
    "line": {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "},
    "compact": {"whitespace_flexible": False, "item_separator": ",", "key_separator": ":"},
    "free": {"whitespace_flexible": True},
}


class JsonSchema(Constrained):
    """Write JSON that fits a schema."""

    schema_: dict[str, Any] | bool = Field(default_factory=dict, alias="schema")
    """The schema, or a file that holds it; by default any JSON."""

    layout: Literal["line", "compact", "free"] = "line"
    """Spaces between the parts: one after a comma or colon (line), none (compact), or as the model likes (free)."""

    @field_validator("schema_", mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        """The content of a file in place of its name, so that a recipe notices when it changes."""
        if not isinstance(value, (str, Path)):
            return value
        path = Path(value)
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, IsADirectoryError):
            raise BadRequest(f"There is no schema file {path}.") from None
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise BadRequest(f"{path} is not JSON: {error}.") from None

    def language(self) -> str:
        grammar: str = library().LLMatcher.grammar_from_json_schema(
            json.dumps(self.schema_), overrides=_LAYOUTS[self.layout]
        )
        return grammar
