"""The contract of a perturbation: how a text is changed so that what it asks or says should stay the same.

Robustness, fairness and behavioural tests compare a model's answers before and after (Ribeiro et al., 2020, "Beyond
Accuracy: Behavioral Testing of NLP models with CheckList"; Liang et al., 2022, "Holistic Evaluation of Language
Models", section 4). All methods are rules for English with small lists of words of their own; none asks a model.
"""

from __future__ import annotations

from abc import abstractmethod
from random import Random

from posttrain.core.settings import Settings


class Perturbation(Settings):
    """Base of all perturbations.

    Every one keeps the digits of a text and their order, never makes an empty text of one that isn't, and returns a
    text in which it finds nothing to change as it is.
    """

    @property
    def idempotent(self) -> bool:
        """Whether applying it twice is the same as once, whatever is drawn."""
        return False

    @abstractmethod
    def apply(self, text: str, random: Random) -> str:
        """A changed text.

        Args:
            text: Any text.
            random: Where draws come from; the same state gives the same text.
        """
