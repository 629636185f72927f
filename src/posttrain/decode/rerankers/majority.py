"""Majority: self-consistency, the answer that most of the texts come to by whichever way.

Wang et al., 2023, "Self-Consistency Improves Chain of Thought Reasoning in Language Models", section 2. What counts as
a text's answer is found by a regular expression. The score is the share of all texts that have the same answer.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import field_validator

from posttrain.decode.rerankers import Reranker

if TYPE_CHECKING:
    from posttrain.decode.sequence import Generated, Question
    from posttrain.models.language_model import LanguageModel


class Majority(Reranker):
    """Prefer the answer that most texts come to."""

    pattern: str = r"-?\d[\d,]*(?:\.\d+)?"
    """What in a text is its answer: the last match of this regular expression, or its first group; a number by default.
    Numbers are compared as numbers, other answers without regard to case and blanks."""

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"it isn't a regular expression: {error}") from None
        return pattern

    def scores(self, judge: LanguageModel, prompt: Question, answers: Sequence[Generated]) -> list[float]:
        found = [self.answer(answer.text) for answer in answers]
        votes = Counter(answer for answer in found if answer is not None)
        return [0.0 if answer is None else votes[answer] / len(found) for answer in found]

    def answer(self, text: str) -> str | float | None:
        """A text's answer in the form in which it is compared; None if it has none."""
        matches = list(re.finditer(self.pattern, text))
        if not matches or (found := matches[-1].group(1 if matches[-1].re.groups else 0)) is None:
            return None
        try:
            return float(found.replace(",", ""))
        except ValueError:
            return " ".join(found.casefold().split())
