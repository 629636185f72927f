"""The text of a growing token sequence, released as soon as it can't change any more.

A token may end in the middle of a character, and a stop string may span tokens: text that ends in an incomplete
character, or in what could be the beginning of a stop string, is held back until the next tokens settle it. Only a
window of recent tokens is decoded again for each token, since what stands before it can't change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"  # what decoding puts in place of bytes that aren't a whole character yet


def decode(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int]) -> str:
    """Text of tokens without special tokens and without cosmetic changes to spaces."""
    text = tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return text


class TextStream:
    """Decodes one sequence token by token.

    Args:
        tokenizer: Turns tokens to text.
        stop: Strings at which the text ends; the earliest occurrence counts and isn't part of the text.
        listener: Called with each new piece of text; the pieces joined are the text.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str], listener: Callable[[str], None] | None = None
    ) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._listener = listener
        self._tokens: list[int] = []
        self._window = 0  # first token that is decoded again
        self._settled_tokens = 0  # tokens whose text is in `_settled`
        self._known = ""  # text of the window's settled tokens
        self._settled = ""  # complete characters so far
        self._tail = ""  # text of the tokens after them
        self._released = 0  # characters the listener has got

    def fork(self) -> TextStream:
        """A copy that goes on by itself, and to which nobody listens."""
        copied = copy(self)
        copied._tokens, copied._listener = list(self._tokens), None
        return copied

    @property
    def text(self) -> str:
        """All text so far, cut at the stop string if there was one."""
        return self._settled + self._tail

    def append(self, token: int) -> bool:
        """Take the next token; True if it completes a stop string."""
        self._tokens.append(token)
        window = decode(self._tokenizer, self._tokens[self._window :])
        self._tail = window[len(self._known) :]
        if (end := self._find_stop()) is not None:
            self._settled, self._tail = self.text[:end], ""
            self.finish()
            return True
        if self._tail and not self._tail.endswith(_INCOMPLETE):
            self._settled += self._tail
            self._tail = ""
            self._window, self._settled_tokens = self._settled_tokens, len(self._tokens)
            self._known = decode(self._tokenizer, self._tokens[self._window :])
            self._release(len(self._settled) - self._beginning_of_stop())
        return False

    def finish(self) -> None:
        """Release what was held back: no token follows."""
        self._release(len(self.text))

    def _release(self, end: int) -> None:
        if self._listener is not None and end > self._released:
            self._listener(self.text[self._released : end])
            self._released = end

    def _find_stop(self) -> int | None:
        """Where the earliest stop string begins that reaches into the newest text."""
        text = self.text
        found = [
            place for stop in self._stop if (place := text.find(stop, max(0, len(self._settled) - len(stop) + 1))) >= 0
        ]
        return min(found, default=None)

    def _beginning_of_stop(self) -> int:
        """Length of the longest end of the text that a stop string begins with."""
        longest = max((len(stop) - 1 for stop in self._stop), default=0)
        for length in range(min(longest, len(self._settled)), 0, -1):
            end = self._settled[-length:]
            if any(stop.startswith(end) for stop in self._stop):
                return length
        return 0
