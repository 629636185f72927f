"""Case: all letters small, all capital, or each at random the other way."""

from __future__ import annotations

from random import Random
from typing import Literal

from pydantic import Field

from posttrain.bench.perturbations import Perturbation


class Case(Perturbation):
    """Change small letters and capitals."""

    to: Literal["lower", "upper", "random"] = "lower"
    """What letters become; at random, each is turned with the probability `rate`."""

    rate: float = Field(0.3, ge=0, le=1)
    """The probability that a letter is turned, for `random`."""

    @property
    def idempotent(self) -> bool:
        """Not at random."""
        return self.to != "random"

    def apply(self, text: str, random: Random) -> str:
        if self.to == "lower":
            return text.lower()
        if self.to == "upper":
            return text.upper()
        return "".join(
            letter.swapcase() if letter.isalpha() and random.random() < self.rate else letter for letter in text
        )
