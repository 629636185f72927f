"""A record as tokens, and which of them are learned: what every objective and every packer works on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Encoded:
    """One sequence of tokens.

    Attributes:
        input_ids: The tokens.
        loss_mask: For each token, whether predicting it is learned; never for the first, which nothing precedes.
        origin: ``file:line`` of the record.
        extras: What a method adds: a number for the whole sequence, or a list with one number per token.
    """

    input_ids: list[int]
    loss_mask: list[bool]
    origin: str = ""
    extras: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def loss_tokens(self) -> int:
        """How many tokens are learned."""
        return sum(self.loss_mask)
