"""Prompt temperature: what is asked decides the temperature, low for facts and code, high for what is to be invented.

The kind of a prompt is found by keywords: the first kind whose expression occurs in the prompt's text. The whole prompt
is searched, with whatever a chat template put around it. Left out: classifiers that have to be trained.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from posttrain.core.errors import BadRequest
from posttrain.core.settings import Settings
from posttrain.decode.processors import DecodeState, LogitsProcessor
from posttrain.decode.processors._by_row import divide
from posttrain.decode.text_stream import decode

if TYPE_CHECKING:
    import torch


class PromptKind(Settings):
    """A kind of prompt and its temperature."""

    name: str
    """What the kind is called."""

    pattern: re.Pattern[str]
    """Regular expression that occurs in prompts of this kind, as in (?i)story|poem."""

    temperature: float = Field(ge=0, allow_inf_nan=False)
    """Temperature of the answers."""


def _words(*words: str) -> re.Pattern[str]:
    return re.compile(rf"(?i)\b(?:{'|'.join(words)})\b")


class PromptTemperature(LogitsProcessor):
    """A temperature for each kind of prompt."""

    neutral: ClassVar[dict[str, Any] | None] = {"kinds": [], "otherwise": 1.0}

    kinds: list[PromptKind] = [
        PromptKind(
            name="code",
            pattern=_words("code", "function", "program", "script", "python", "javascript", "sql", "regex", "bug"),
            temperature=0.3,
        ),
        PromptKind(
            name="creative",
            pattern=_words("stor(?:y|ies)", "poems?", "song", "lyrics", "imagine", "invent", "brainstorm", "slogans?"),
            temperature=1.0,
        ),
        PromptKind(
            name="factual",
            pattern=_words(
                "who", "when", "where", "which", "how many", "how much", "what (?:is|are|was|were)", "define"
            ),
            temperature=0.2,
        ),
    ]
    """The kinds: name, pattern (a regular expression) and temperature; the first one that is found decides."""

    otherwise: float = Field(0.7, ge=0, allow_inf_nan=False)
    """Temperature for prompts of no kind."""

    def kind(self, prompt: str) -> PromptKind | None:
        """The kind of a prompt's text."""
        return next((kind for kind in self.kinds if kind.pattern.search(prompt)), None)

    def __call__(self, logits: torch.Tensor, state: DecodeState) -> torch.Tensor:
        if not self.kinds:
            return divide(logits, [self.otherwise] * len(state.prompts))
        if (tokenizer := state.tokenizer) is None:
            raise BadRequest("The kind of a prompt is found in its text, which takes a tokenizer.")
        kinds = [self.kind(decode(tokenizer, row)) for row in state.prompts]
        return divide(logits, [kind.temperature if kind else self.otherwise for kind in kinds])
