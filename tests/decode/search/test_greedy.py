"""Greedy search."""

from __future__ import annotations

from typing import Any

import torch

from posttrain.decode.generation import generate
from posttrain.decode.processors import DecodeState, LogitsProcessor
from posttrain.decode.search.greedy import Greedy


class Flat(LogitsProcessor):
    """All scores equal, except for two winners."""

    winners: tuple[int, int]

    def __call__(self, logits: torch.Tensor, state: DecodeState) -> torch.Tensor:
        flat = torch.zeros_like(logits)
        flat[:, list(self.winners)] = 1.0
        return flat


def test_processors_apply_and_the_first_of_equals_is_taken(lively: Any) -> None:
    result = generate(lively, [[5]], search=Greedy(), processors=[Flat(winners=(77, 75))], max_new_tokens=3)
    assert result.generations[0].token_ids == [75, 75, 75]
