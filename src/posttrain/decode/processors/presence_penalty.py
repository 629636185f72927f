"""Presence penalty: a fixed amount off the score of every token that has been generated before.

As in OpenAI's interface: with c_j how often token j was generated, its score becomes z_j - α [c_j > 0].
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from posttrain.decode.processors import DecodeState, LogitsProcessor

if TYPE_CHECKING:
    import torch


class PresencePenalty(LogitsProcessor):
    """Make tokens that were generated before less probable, however often they were."""

    neutral: ClassVar[dict[str, Any] | None] = {"penalty": 0.0}

    penalty: float = Field(0.5, allow_inf_nan=False)
    """α: 0 changes nothing, more leads to new subjects, less than 0 back to old ones; usually between -2 and 2."""

    prompt: bool = False
    """Whether tokens of the prompt count as generated."""

    def __call__(self, logits: torch.Tensor, state: DecodeState) -> torch.Tensor:
        rows, tokens = state.occurrences(self.prompt, logits)
        # A token that occurs several times is written several times, with the same score.
        return logits.index_put((rows, tokens), logits[rows, tokens] - self.penalty)
