"""Logits processors: functions that reshape the next-token scores before a token is chosen."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from posttrain.core.settings import Settings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class DecodeState:
    """What a processor may know of the rows it is given; read only.

    Attributes:
        prompts: Token ids of each row's prompt.
        generated: Token ids each row has got since.
        eos_ids: Tokens that end a sequence.
        max_new_tokens: The most tokens a row may get.
        tokenizer: The model's.
    """

    prompts: Sequence[Sequence[int]]
    generated: Sequence[Sequence[int]]
    eos_ids: frozenset[int] = frozenset()
    max_new_tokens: int | None = None
    tokenizer: PreTrainedTokenizerBase | None = None

    def tokens(self, prompt: bool, device: torch.device) -> torch.Tensor:
        """What each row holds so far, [B, L] long, right-aligned, with -1 on the left of shorter rows.

        Args:
            prompt: With the tokens of the prompt.
            device: Where to put it.
        """
        flat, lengths = self._flat(prompt)
        matrix = np.full((len(lengths), lengths.max(initial=0)), -1, dtype=np.int64)
        matrix[np.arange(matrix.shape[1]) >= matrix.shape[1] - lengths[:, None]] = flat
        return torch.from_numpy(matrix).to(device)

    def occurrences(self, prompt: bool, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Where in scores [B, V] all those tokens stand that rows hold so far: rows [N] and tokens [N], long.

        Args:
            prompt: With the tokens of the prompt.
            like: The scores; tokens beyond their width are left out.
        """
        flat, lengths = self._flat(prompt)
        known = flat < like.shape[1]
        rows = np.arange(len(lengths)).repeat(lengths)[known]
        return torch.from_numpy(rows).to(like.device), torch.from_numpy(flat[known]).to(like.device)

    def _flat(self, prompt: bool) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Tokens of all rows end to end, and how many each row has."""
        parts = list(zip(self.prompts, self.generated)) if prompt else [(row,) for row in self.generated]
        lengths = np.array([sum(map(len, row)) for row in parts], dtype=np.int64)
        tokens = chain.from_iterable(chain.from_iterable(parts))
        return np.fromiter(tokens, np.int64, int(lengths.sum())), lengths

    def last(self, row: int, count: int) -> tuple[int, ...]:
        """The last tokens of a row's prompt and text together; fewer where it holds fewer."""
        generated = self.generated[row]
        if count <= len(generated):
            return tuple(generated[len(generated) - count :])
        prompt = self.prompts[row]
        return (*prompt[max(0, len(prompt) + len(generated) - count) :], *generated)


class LogitsProcessor(Settings):
    """A pure function from scores to scores; several are applied in the order in which they are written.

    It keeps -inf at -inf, leaves at least one token of each row finite, and doesn't change its input.
    """

    neutral: ClassVar[dict[str, Any] | None] = None
    """Settings at which it changes nothing; None if there are none."""

    @abstractmethod
    def __call__(self, logits: torch.Tensor, state: DecodeState) -> torch.Tensor:
        """Reshape scores.

        Args:
            logits: [B, V] float32; forbidden tokens have -inf.
            state: What is known of the B rows.

        Returns:
            [B, V] float32.
        """


def forbid(logits: torch.Tensor, forbidden: torch.Tensor) -> torch.Tensor:
    """Scores [B, V] with -inf where `forbidden`, bool [B, V]; a row that would lose all its tokens keeps them."""
    kept = logits.masked_fill(forbidden, -torch.inf)
    nothing_left = (kept == -torch.inf).all(-1, keepdim=True)
    return torch.where(nothing_left, logits, kept) if bool(nothing_left.any()) else kept
