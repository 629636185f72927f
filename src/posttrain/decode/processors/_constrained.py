"""Structured output: of all tokens only those that can still lead to a text of a given formal language.

The language is compiled and followed by llguidance (an Earley parser over derivatives of regular expressions, token
masks in microseconds). What is added here: each row's place in the language is found by what the row has generated, so
that the processor stays a pure function and works with any search; and a text is closed in time: where few tokens are
left, a token is allowed only if the text can be completed within the rest. Left out: tokens that are forced and could
be taken without asking the model.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter, OrderedDict
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import model_validator

from posttrain.core.errors import BadRequest, Failure
from posttrain.decode.processors import DecodeState, LogitsProcessor

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Mask = NDArray[np.bool_]

# Texts whose places in the language are kept; more than the rows that are in work at a time.
_KEPT = 1024
# What a single token may add to the tokens a text still needs, at least; see `Language.margin`.
_GROWTH = 16
# A text of the language that takes more tokens than this isn't looked for.
_LONGEST = 512
# Where few tokens are left, so many of the most probable ones are tried.
_TRIED = 4
# On the way to the end so many tokens are looked at for the next step.
_LOOKED_AT = 100
# What closes things, in the order in which it is tried on the way to the end.
_CLOSING = (b"}", b"]", b")", b">", b'"')


def library() -> Any:
    """The grammar engine.

    Raises:
        BadRequest: If it isn't installed.
    """
    try:
        import llguidance
    except ImportError:
        raise BadRequest(
            "Structured output needs the package llguidance.", "Install it: pip install 'posttrain[grammar]'."
        ) from None
    return llguidance


class Constrained(LogitsProcessor):
    """Base of the processors that keep a text inside a language."""

    finish: bool = True
    """Close the text before max_new_tokens is reached; otherwise a long one is cut and isn't complete."""

    @abstractmethod
    def language(self) -> str:
        """The language as llguidance writes it."""

    @model_validator(mode="after")
    def _compiles(self) -> Self:
        wrong, messages = library().LLMatcher.validate_grammar_with_warnings(self.language())
        if wrong:
            raise BadRequest(f"{type(self).__name__} can't be compiled: {' '.join(messages[0].split())}.")
        return self

    def __call__(self, logits: torch.Tensor, state: DecodeState) -> torch.Tensor:
        if state.tokenizer is None:
            raise BadRequest("Structured output needs the model's tokenizer.")
        language = _compiled(state.tokenizer, self.language(), logits.shape[-1], state.eos_ids)
        masks = np.stack([language.allowed(row) for row in state.generated])  # [B, V]
        kept = logits.masked_fill(torch.from_numpy(~masks).to(logits.device), -float("inf"))
        if self.finish and state.max_new_tokens is not None:
            kept = _closed_in_time(kept, language, state.generated, state.max_new_tokens)
        if bool((kept == -float("inf")).all(-1).any()):
            raise Failure(
                "No token that the structure of the text allows is left.",
                "Put this processor before those that leave out improbable tokens.",
            )
        return kept


def _closed_in_time(
    logits: torch.Tensor, language: Language, generated: Sequence[Sequence[int]], most: int
) -> torch.Tensor:
    """Forbid tokens after which a text can't be completed, in the rows that have few tokens left."""
    kept = None
    for row, tokens in enumerate(generated):
        fitting = language.fitting(tokens, most - len(tokens), logits[row])
        if fitting is not None:
            kept = logits.clone() if kept is None else kept
            forbidden = torch.ones_like(logits[row], dtype=torch.bool)
            forbidden[fitting] = False
            kept[row].masked_fill_(forbidden, -float("inf"))
    return logits if kept is None else kept


@lru_cache(maxsize=8)
def _compiled(tokenizer: PreTrainedTokenizerBase, grammar: str, vocabulary: int, eos_ids: frozenset[int]) -> Language:
    return Language(tokenizer, grammar, vocabulary, eos_ids)


class Language:
    """A formal language over the tokens of one tokenizer, and the places in it where texts stand.

    Args:
        tokenizer: A fast tokenizer.
        grammar: As llguidance writes it.
        vocabulary: V, how many scores the model gives, at most that of the tokenizer's tokens and padding.
        eos_ids: Tokens that end a sequence; allowed where the text is complete.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, grammar: str, vocabulary: int, eos_ids: frozenset[int]
    ) -> None:
        if not tokenizer.is_fast:
            raise BadRequest("Structured output needs a fast tokenizer, one of the tokenizers library.")
        from llguidance.hf import from_tokenizer

        self._ends = sorted(token for token in eos_ids if token < vocabulary)
        end = self._ends[0] if self._ends else None
        self._tokens = from_tokenizer(cast("Any", tokenizer), n_vocab=max(vocabulary, len(tokenizer)), eos_token=end)
        self._vocabulary = vocabulary
        self._root = library().LLMatcher(self._tokens, grammar, log_level=0)
        self._check(self._root)
        self._places: OrderedDict[tuple[int, ...], Any] = OrderedDict()

    def allowed(self, generated: Sequence[int]) -> Mask:
        """Which tokens may follow, [V].

        Raises:
            Failure: If what is generated isn't the beginning of any text of the language.
        """
        return self._mask(self._place(generated))

    @cached_property
    def margin(self) -> int:
        """By how many tokens the way to the end may become longer with one token: as long as a whole text.

        An estimate, exact where no part of a text needs more tokens than the shortest text as a whole.
        """
        shortest = self._way_to_end(self._root, _LONGEST)
        return max(_GROWTH, len(shortest or ()))

    def fitting(self, generated: Sequence[int], left: int, scores: torch.Tensor) -> list[int] | None:
        """Tokens after which the text can be completed and ended within what is left.

        Args:
            generated: The text so far.
            left: How many more tokens it may get.
            scores: [V], -inf for what isn't allowed.

        Returns:
            Some of the most probable ones and one that leads to the end; None where there is no need to choose or no
            way to the end was found.

        Raises:
            BadRequest: If not even the shortest text that was found fits.
        """
        place = self._place(generated)
        if left > 4 * (self.margin + 1):  # so far from the end that no way there can be too long
            return None
        way = self._way_to_end(place, _LONGEST if not generated else left)
        if not generated and way is not None and len(way) > left:
            raise BadRequest(
                f"max_new_tokens is {left}, but the shortest text of this structure takes about {len(way)} tokens.",
                "Raise max_new_tokens.",
            )
        if way is None or left > len(way) + 1 + self.margin:
            return None
        values, tokens = scores.topk(min(_TRIED, len(scores)))
        probable = [token for value, token in zip(values.tolist(), tokens.tolist()) if value > -float("inf")]
        onward = [way[0]] if way else self._ends
        found = [token for token in probable if token in onward or self._fits(place, token, left - 1)]
        found += [token for token in onward if token not in found and bool(scores[token] > -float("inf"))]
        return found or None

    def _fits(self, place: Any, token: int, left: int) -> bool:
        """Whether a text can be completed and ended with so many tokens after this one."""
        if token in self._ends:
            return True
        return self._way_to_end(self._after(place, token), left - 1) is not None

    def _way_to_end(self, place: Any, most: int) -> list[int] | None:
        """Tokens that complete the text, few if not the fewest; None if no way of at most so many was found.

        One token of one byte at a time: one that completes the text; else one that closes something, after which other
        bytes may follow than before; else the first in order of preference after which another set of tokens may
        follow, which in a string without a greatest length isn't a further letter. One that was taken less often from a
        place like this comes first, against going round in circles; a place unlike all before shows there is no circle.
        """
        way: list[int] = []
        taken: Counter[tuple[bytes, int]] = Counter()
        seen: set[bytes] = set()
        while not place.is_accepting():
            here: bytes = place.compute_bitmask()
            if here not in seen:
                taken.clear()
                seen.add(here)
            step = self._onward(place, here, taken) if len(way) < most else None
            if step is None:
                return None
            token, place = step
            taken[here, token] += 1
            way.append(token)
        return way

    def _onward(self, place: Any, here: bytes, taken: Counter[tuple[bytes, int]]) -> tuple[int, Any] | None:
        """The next token on the way to the end and the place after it; `here` is which tokens may follow."""
        mask = self._mask(place)
        tokens = self._bytewise[mask[self._bytewise]]
        if not len(tokens):
            tokens = np.flatnonzero(mask & self._textual)
        if not len(tokens):
            return None
        ordered = sorted(tokens[:_LOOKED_AT].tolist(), key=lambda token: taken[here, token])
        steps = [(token, self._after(place, token)) for token in ordered]
        completing = (step for step in steps if step[1].is_accepting())
        closing = (
            (token, after)
            for token, after in steps
            if self._texts[token] in _CLOSING
            and not taken[here, token]
            and self._follows(after) != self._follows(place)
        )
        leading = (step for step in steps if step[1].compute_bitmask() != here)
        return next(completing, None) or next(closing, None) or next(leading, steps[0])

    def _follows(self, place: Any) -> bytes:
        """Which single bytes may follow; unlike the tokens these don't change as a text nears its greatest length."""
        bits = np.frombuffer(place.compute_bitmask(), dtype=np.uint8)
        return np.unpackbits(bits, bitorder="little")[self._bytewise].tobytes()

    def _after(self, place: Any, token: int) -> Any:
        after = place.deep_copy()
        after.consume_token(token)
        return after

    @cached_property
    def _texts(self) -> list[bytes]:
        """The text of each of the V tokens; empty for special ones."""
        special = self._tokens.is_special_token
        every = range(self._vocabulary)
        return [b"" if special(token) else self._tokens.decode_bytes([token]) for token in every]

    @cached_property
    def _textual(self) -> Mask:
        return np.array([bool(text) for text in self._texts])

    @cached_property
    def _bytewise(self) -> NDArray[np.int64]:
        """The tokens of one byte, in the order in which they are tried on the way to the end."""

        def preference(token: int) -> tuple[int, bytes]:
            text = self._texts[token]
            if text in _CLOSING:
                return _CLOSING.index(text), text
            kinds = (not text.isalnum() and text != b"-" and text.isascii(), text.isdigit(), text == b"-", True)
            return len(_CLOSING) + kinds.index(True), text

        return np.array(sorted((t for t, text in enumerate(self._texts) if len(text) == 1), key=preference), np.int64)

    def _place(self, generated: Sequence[int]) -> Any:
        """The parser after a text; not to be moved, for others may ask for the same."""
        key = tuple(generated)
        found = self._places.get(key)
        if found is None:
            before = self._places.get(key[:-1]) if key else None
            found = (self._root if before is None else before).deep_copy()
            for token in key if before is None else key[-1:]:
                found.consume_token(self._ends[0] if token in self._ends else token)
            self._check(found)
            self._places[key] = found
            if len(self._places) > _KEPT:
                self._places.popitem(last=False)
        self._places.move_to_end(key)
        return found

    def _mask(self, place: Any) -> Mask:
        bits = np.frombuffer(place.compute_bitmask(), dtype=np.uint8)
        mask = np.unpackbits(bits, bitorder="little")[: self._vocabulary].astype(np.bool_)
        self._check(place)
        if self._ends:
            mask[self._ends] = place.is_accepting()
        return mask

    def _check(self, place: Any) -> None:
        if place.is_error():
            raise Failure(
                f"The text left the structure it was to have: {' '.join(place.get_error().split())}.",
                "Check what else changes the text, and the structure itself.",
            )
