"""One sequence in the making: its tokens, what they cost, and whether it has ended."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from posttrain.decode.text_stream import TextStream, decode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FinishReason = Literal["stop", "eos", "length"]

# A text, or a list of messages ({"role": …, "content": …}).
Question = str | list[dict[str, Any]]
# A question, or token ids.
Prompt = Question | list[int]


@dataclass(frozen=True)
class Ending:
    """When a sequence ends.

    Attributes:
        max_new_tokens: At most so many tokens.
        eos_ids: Tokens that end the text on the model's initiative; they belong to the tokens.
        stop_ids: Special tokens that the user gave as stop strings.
        stop: Other strings at which the text ends.
    """

    max_new_tokens: int
    eos_ids: frozenset[int] = frozenset()
    stop_ids: frozenset[int] = frozenset()
    stop: Sequence[str] = ()


@dataclass
class Generated:
    """A sequence in work.

    Attributes:
        prompt_index: Which prompt it continues.
        sample: Which of the prompt's samples it is.
        prompt: Token ids of the prompt.
        ending: When it ends.
        tokenizer: For text and stop strings.
        seed: Of the whole request; `random` derives from it.
        listener: Called with each new piece of text.
        tokens: New token ids so far.
        logprobs: Log-probability of each new token under the model's own distribution.
        finish_reason: Why it ended; None while it goes on.
        score: What its search ranked it by, higher is better; None if it doesn't rank.
    """

    prompt_index: int
    sample: int
    prompt: list[int]
    ending: Ending
    tokenizer: PreTrainedTokenizerBase
    seed: int = 0
    listener: Callable[[str], None] | None = None
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    score: float | None = None

    @property
    def length(self) -> int:
        """How many new tokens it has."""
        return len(self.tokens)

    @cached_property
    def random(self) -> random.Random:
        """This sequence's own generator: the same draws on every device and in every batch."""
        return random.Random(f"{self.seed}/{self.prompt_index}/{self.sample}")

    @cached_property
    def _stream(self) -> TextStream | None:
        """Text is followed token by token only where somebody reads it or a stop string is looked for."""
        if self.listener is None and not self.ending.stop:
            return None
        return TextStream(self.tokenizer, self.ending.stop, self.listener)

    def append(self, token: int, logprob: float) -> None:
        """Take the next token; sets `finish_reason` if the sequence ends with it."""
        self.tokens.append(token)
        self.logprobs.append(logprob)
        if token in self.ending.eos_ids:
            self.finish_reason = "eos"
        elif token in self.ending.stop_ids or (self._stream is not None and self._stream.append(token)):
            self.finish_reason = "stop"
        elif len(self.tokens) >= self.ending.max_new_tokens:
            self.finish_reason = "length"
        if self.finish_reason and self._stream is not None:
            self._stream.finish()

    def fork(self) -> Generated:
        """A copy that goes on by itself, and to which nobody listens."""
        copied = replace(self, tokens=list(self.tokens), logprobs=list(self.logprobs), listener=None)
        if self.ending.stop and self._stream is not None:
            copied._stream = self._stream.fork()
        return copied

    @property
    def text(self) -> str:
        """Text of the new tokens, without special tokens, cut at a stop string."""
        if self._stream is not None:
            return self._stream.text
        ended_by_token = self.tokens and self.tokens[-1] in self.ending.eos_ids | self.ending.stop_ids
        return decode(self.tokenizer, self.tokens[:-1] if ended_by_token else self.tokens)
