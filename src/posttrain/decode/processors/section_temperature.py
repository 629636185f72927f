"""Section temperature: parts of one text get temperatures of their own, such as facts and quotations.

What has been written so far is searched for the expressions that begin and end sections; the section that was opened
last and isn't closed decides. A section without an end lasts until another one begins. The text is decoded anew for
each token, so an expression may span tokens; a section counts from the token after the one that completes its
beginning.
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


class Section(Settings):
    """A part of the text and its temperature."""

    begins: re.Pattern[str]
    """Regular expression after which the section begins, as in Facts: or an opening quotation mark."""

    ends: re.Pattern[str] | None = None
    """Regular expression that ends it; the same as `begins` for straight quotation marks. None: another section."""

    temperature: float = Field(ge=0, allow_inf_nan=False)
    """Temperature of the tokens inside."""

    def opened(self, text: str) -> int | None:
        """Where in a text this section was opened that isn't closed at the text's end; None if there is none."""
        place, opened = 0, None
        while True:
            expression = self.begins if opened is None else self.ends
            if expression is None or (found := expression.search(text, place)) is None:
                break
            opened = found.end() if opened is None else None
            place = found.end() if found.end() > found.start() else found.end() + 1
        if opened is not None and self.ends is None:
            return max(found.end() for found in self.begins.finditer(text))  # opened again each time it begins
        return opened


class SectionTemperature(LogitsProcessor):
    """A temperature for each kind of section."""

    neutral: ClassVar[dict[str, Any] | None] = {"sections": [], "otherwise": 1.0}

    sections: list[Section] = [
        Section(begins=re.compile("(?i)facts:"), ends=re.compile(r"\n\s*\n"), temperature=0.2),
        Section(begins=re.compile("```"), ends=re.compile("```"), temperature=0.3),
    ]
    """The sections: begins and ends (regular expressions) and temperature; of open ones, the last opened decides."""

    otherwise: float = Field(1.0, ge=0, allow_inf_nan=False)
    """Temperature outside of all sections."""

    def temperature(self, text: str) -> float:
        """The temperature of what follows a text."""
        places = [(place, section) for section in self.sections if (place := section.opened(text)) is not None]
        return max(places, key=lambda each: each[0])[1].temperature if places else self.otherwise

    def __call__(self, logits: torch.Tensor, state: DecodeState) -> torch.Tensor:
        if not self.sections:
            return divide(logits, [self.otherwise] * len(state.generated))
        if (tokenizer := state.tokenizer) is None:
            raise BadRequest("Sections are found in the text, which takes a tokenizer.")
        return divide(logits, [self.temperature(decode(tokenizer, row)) for row in state.generated])
