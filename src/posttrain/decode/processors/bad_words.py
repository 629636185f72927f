"""Bad words: texts that may not appear.

A word is forbidden in the forms the tokenizer gives it at the beginning of a text and after a space; of a form with
several tokens the last one is forbidden where the others stand before it, as in transformers. Left out: other spellings
(capitals, plurals), and the same letters in other tokens. Where nothing else is left, the row keeps what it had.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import torch
from pydantic import Field

from posttrain.core.errors import BadRequest
from posttrain.decode.processors import DecodeState, LogitsProcessor, forbid

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Number of tokens before the last one -> these tokens -> what may not follow them.
_Forbidden = dict[int, dict[tuple[int, ...], list[int]]]


class BadWords(LogitsProcessor):
    """Forbid the tokens that would complete given words."""

    neutral: ClassVar[dict[str, Any] | None] = {"words": [], "token_ids": []}

    words: list[Annotated[str, Field(min_length=1)]] = []
    """Words or phrases that may not appear, as they are written."""

    token_ids: list[list[int]] = []
    """Sequences of tokens that may not appear."""

    def __call__(self, logits: torch.Tensor, state: DecodeState) -> torch.Tensor:
        sequences = [tuple(tokens) for tokens in self.token_ids]
        if self.words:
            if state.tokenizer is None:
                raise BadRequest("Words can only be forbidden where there is a tokenizer.", "Give token_ids.")
            sequences += _forms(state.tokenizer, tuple(self.words))
        by_length = _by_length(tuple(sequences))
        if not by_length:
            return logits
        forbidden = torch.zeros_like(logits, dtype=torch.bool)
        for row in range(len(state.generated)):
            found = [
                token
                for length, follow in by_length.items()
                for token in follow.get(state.last(row, length), ())
                if token < logits.shape[1]
            ]
            forbidden[row, found] = True
        return forbid(logits, forbidden)


@lru_cache(maxsize=8)
def _forms(tokenizer: PreTrainedTokenizerBase, words: tuple[str, ...]) -> tuple[tuple[int, ...], ...]:
    """Tokens of each word, at the beginning of a text and after a space."""
    texts = [text for word in words for text in (word, f" {word}")]
    forms = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
    return tuple(dict.fromkeys(tuple(form) for form in forms if form))


@lru_cache(maxsize=8)
def _by_length(sequences: tuple[tuple[int, ...], ...]) -> _Forbidden:
    found: _Forbidden = {}
    for *before, last in filter(None, sequences):
        found.setdefault(len(before), {}).setdefault(tuple(before), []).append(last)
    return found
