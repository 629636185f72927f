"""What the engine remembers of the sequences in work, whichever way the network is run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch


class State(ABC):
    """The rows in work: their remembered keys and values, and how to run the network on them.

    Attributes:
        joins: Whether rows can be added while others are in work.
        lengths: Number of tokens remembered for each row.
    """

    joins: bool
    lengths: list[int]

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.lengths)

    @abstractmethod
    def prefill(self, prompts: Sequence[Sequence[int]], every: bool = False) -> torch.Tensor:
        """Run new prompts, one new row each.

        Args:
            prompts: Token ids.
            every: Return the hidden states of all tokens.

        Returns:
            The hidden state of the last token of each prompt, [n, H]; with `every` those of all tokens, the prompts end
            to end, [total, H].
        """

    @abstractmethod
    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """Add tokens [B, T] long, T to every row; returns their hidden states, [B, T, H]."""

    @abstractmethod
    def select(self, rows: list[int]) -> None:
        """Make row i what row ``rows[i]`` was; rows may repeat, and rows that aren't named are dropped."""

    @abstractmethod
    def truncate(self, lengths: list[int]) -> None:
        """Forget the last tokens, so that row i holds ``lengths[i]``."""
