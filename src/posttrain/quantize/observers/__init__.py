"""The contract of an observer: it looks at batches of activations and says which range a quantizer shall cover.

A wider range clamps nothing and has coarser steps; what an observer decides is where between the two to stop. Only a
whole tensor's range is observed here: integer arithmetic needs one scale for all inputs of a product.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from posttrain.core.settings import Settings


class Observation(ABC):
    """What has been seen so far. Its memory doesn't grow with what it sees."""

    @abstractmethod
    def see(self, x: Tensor) -> None:
        """Take a batch into account.

        Args:
            x: Floating point, any shape, at least one number, all of them finite.
        """

    @abstractmethod
    def range(self, bits: int) -> tuple[float, float]:
        """The smallest and the largest number to cover with codes of so many bits; something must have been seen.

        Returns:
            (minimum, maximum), minimum <= 0 <= maximum: zero is always exact. -maximum and maximum when symmetric.
        """


class Observer(Settings):
    """A way to choose a range from what is seen."""

    symmetric: bool = True
    """Cover the same range on both sides of zero; false fits one-sided activations better."""

    @abstractmethod
    def start(self) -> Observation:
        """Begin to observe one tensor's values."""
