"""Add a distractor: a sentence that has nothing to do with the rest, before or behind it.

After Jia and Liang, 2017, "Adversarial Examples for Evaluating Reading Comprehension Systems"; theirs are written to
look like an answer, these aren't. The built-in sentences hold no numbers, names or opinions.
"""

from __future__ import annotations

from random import Random
from typing import Literal

from pydantic import Field, field_validator

from posttrain.bench.perturbations import Perturbation

_SENTENCES = (
    "The window was open this morning.",
    "A bicycle is leaning against the wall.",
    "The train stops at every station on this line.",
    "There is a glass of water on the table.",
    "The street was wet from the rain.",
    "A dog was barking somewhere down the road.",
    "The shop on the corner sells paper and pens.",
    "Somebody had left a coat on the chair.",
)


class AddDistractor(Perturbation):
    """Add an irrelevant sentence."""

    place: Literal["start", "end"] = "start"
    """Where it goes. At the end it follows a full stop, which is put there if the text has none."""

    sentences: tuple[str, ...] = Field(_SENTENCES, min_length=1)
    """The sentences to choose from."""

    @field_validator("sentences")
    @classmethod
    def _no_digits(cls, sentences: tuple[str, ...]) -> tuple[str, ...]:
        for sentence in sentences:
            if not sentence.strip() or any(letter.isdigit() for letter in sentence):
                raise ValueError(f"a distractor needs words and no digits: {sentence!r}")
        return sentences

    def apply(self, text: str, random: Random) -> str:
        if not text.strip():
            return text
        sentence = random.choice(self.sentences)
        if self.place == "start":
            return f"{sentence} {text}"
        body = text.rstrip()
        return f"{body}{'.' if body[-1].isalnum() else ''} {sentence}{text[len(body) :]}"
