"""Repetition penalty: make tokens that were there before less probable (Keskar et al., 2019, "CTRL", section 4.1).

The score of a token that occurs in what a row holds is divided by θ if it is positive and multiplied by θ if it is
negative (the paper's formula divides in both cases, which would favour tokens with negative scores; all
implementations do it this way), once however often the token occurs. In searches that add up log-probabilities these
take the place of scores, as in transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from posttrain.decode.processors import DecodeState, LogitsProcessor

if TYPE_CHECKING:
    import torch


class RepetitionPenalty(LogitsProcessor):
    """Make tokens that were there before less probable, by a factor on their scores."""

    neutral: ClassVar[dict[str, Any] | None] = {"penalty": 1.0}

    penalty: float = Field(1.2, gt=0, allow_inf_nan=False)
    """θ: 1 changes nothing, more discourages repetition, less encourages it."""

    prompt: bool = True
    """Whether tokens of the prompt count as having been there."""

    def __call__(self, logits: torch.Tensor, state: DecodeState) -> torch.Tensor:
        rows, tokens = state.occurrences(self.prompt, logits)
        scores = logits[rows, tokens]
        # A token that occurs several times is written several times, with the same score.
        penalised = (scores / self.penalty).where(scores > 0, scores * self.penalty)
        return logits.index_put((rows, tokens), penalised)
