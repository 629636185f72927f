"""No repeated n-grams: no n tokens in a row may occur twice (Paulus, Xiong and Socher, 2018, "A Deep Reinforced Model
for Abstractive Summarization", section 2.5, for n = 3).

Prompt and text count together, as in transformers. Where that would leave no token at all, the row keeps what it had.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field

from posttrain.decode.processors import DecodeState, LogitsProcessor, forbid


class NoRepeatNgram(LogitsProcessor):
    """Forbid every token that would complete an n-gram that is there already."""

    neutral: ClassVar[dict[str, Any] | None] = {"n": 0}

    n: int = Field(3, ge=0)
    """Length of the n-grams; 1 forbids every token to occur twice, 0 forbids nothing."""

    def __call__(self, logits: torch.Tensor, state: DecodeState) -> torch.Tensor:
        if self.n == 0:
            return logits
        tokens = state.tokens(True, logits.device)  # [B, L]
        length, words = tokens.shape[1], logits.shape[1]
        if length < self.n:
            return logits
        windows = tokens.unfold(1, self.n, 1)  # [B, L - n + 1, n]
        beginning = tokens[:, length - self.n + 1 :]  # [B, n - 1], of the n-gram that the next token completes
        within = windows[..., 0] >= 0  # not reaching into the padding
        complete = (windows[..., :-1] == beginning[:, None]).all(-1) & within
        last = windows[..., -1].masked_fill(~complete, words).clamp(max=words)
        forbidden = torch.zeros(len(tokens), words + 1, dtype=torch.bool, device=logits.device)
        return forbid(logits, forbidden.scatter_(1, last, True)[:, :words])
