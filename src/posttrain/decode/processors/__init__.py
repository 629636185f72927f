"""Logits processors: functions that reshape the next-token scores before a token is chosen."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from posttrain.core.settings import Settings

if TYPE_CHECKING:
    import torch
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
