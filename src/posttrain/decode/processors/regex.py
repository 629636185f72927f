"""Regular expression: the whole text matches it.

Rust's syntax without look-around and back-references, compiled by llguidance; the expression stands for the text as a
whole, so it needs no anchors.
"""

from __future__ import annotations

from pydantic import Field

from posttrain.decode.processors._constrained import Constrained, library


class Regex(Constrained):
    """Write a text that a regular expression describes."""

    pattern: str = Field(min_length=1)
    """The expression, as in [0-9]{4}-[0-9]{2}-[0-9]{2}; a dot doesn't stand for a line break unless (?s) precedes."""

    def language(self) -> str:
        grammar: str = library().LLMatcher.grammar_from_regex(self.pattern)
        return grammar
