"""What perturbations share: which places are changed, and words put in the place of others, written like them."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TypeVar

Place = TypeVar("Place")


def drawn(places: Sequence[Place], rate: float, at_least: int, random: Random) -> list[Place]:
    """Some of the places of a text, in their order.

    Args:
        places: All of them.
        rate: The probability of each.
        at_least: If the draw leaves fewer than so many, more are drawn, as far as there are any.
        random: Where draws come from.
    """
    chosen = {i for i in range(len(places)) if random.random() < rate}
    wanted = min(at_least, len(places)) - len(chosen)
    if wanted > 0:
        chosen |= set(random.sample([i for i in range(len(places)) if i not in chosen], wanted))
    return [places[i] for i in sorted(chosen)]


def like(model: str, word: str) -> str:
    """A lower-case word written as another is: in capitals, with a capital in front, or as it stands."""
    letters = [letter for letter in model if letter.isalpha()]
    if len(letters) > 1 and all(letter.isupper() for letter in letters):
        return word.upper()
    if letters and letters[0].isupper():
        return word[:1].upper() + word[1:]
    return word
