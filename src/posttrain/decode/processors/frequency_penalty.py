"""Frequency penalty: an amount off a token's score for each time it has been generated before.

As in OpenAI's interface: with c_j how often token j was generated, its score becomes z_j - α c_j.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from posttrain.decode.processors import DecodeState, LogitsProcessor

if TYPE_CHECKING:
    import torch


class FrequencyPenalty(LogitsProcessor):
    """Make tokens less probable the more often they were generated before."""

    neutral: ClassVar[dict[str, Any] | None] = {"penalty": 0.0}

    penalty: float = Field(0.5, allow_inf_nan=False)
    """α: 0 changes nothing, more discourages repetition, less than 0 encourages it; usually between -2 and 2."""

    prompt: bool = False
    """Whether tokens of the prompt count as generated."""

    def __call__(self, logits: torch.Tensor, state: DecodeState) -> torch.Tensor:
        rows, tokens = state.occurrences(self.prompt, logits)
        amount = logits.new_full((1,), -self.penalty).expand(len(rows))
        return logits.index_put((rows, tokens), amount, accumulate=True)
