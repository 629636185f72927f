"""Packing: sequences laid end to end without padding, and optimizer batches split into passes of even size.

A packed batch is one row of tokens with the boundaries of its segments; attention is block-diagonal between them and
positions restart at each. Every token is real, so throughput is the same for short and long records (Krell et al.,
"Efficient Sequence Packing without Cross-contamination", 2021). Out of scope: reordering to fill passes better; the
order of the batch is kept so that results don't depend on the budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch

from posttrain.core.errors import BadRequest
from posttrain.data.encoded import Encoded

IGNORED = -100
"""The target of a position that carries no loss, as in ``torch.nn.functional.cross_entropy``."""


@dataclass(frozen=True)
class Packed:
    """Segments laid end to end: T tokens in S segments.

    Attributes:
        input_ids: The tokens, int64 [T].
        targets: What each position predicts, int64 [T]: the next token of its segment if that token carries loss, else
            -100. The last position of a segment predicts nothing.
        boundaries: Where segments begin, and T at the end, int64 [S + 1]; the values fit int32, which variable-length
            attention wants.
        extras: What methods add: one value per segment [S] or per token [T].
    """

    input_ids: torch.Tensor
    targets: torch.Tensor
    boundaries: torch.Tensor
    extras: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        """T."""
        return self.input_ids.numel()

    @property
    def segments(self) -> int:
        """S."""
        return self.boundaries.numel() - 1

    @cached_property
    def loss_tokens(self) -> int:
        """How many positions carry loss."""
        return int((self.targets != IGNORED).sum())

    @property
    def lengths(self) -> torch.Tensor:
        """Tokens of each segment, int64 [S]."""
        return self.boundaries.diff()

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest segment."""
        return int(self.lengths.max())

    @cached_property
    def segment_ids(self) -> torch.Tensor:
        """The segment of each token, int64 [T]; tokens attend within their own."""
        segments = torch.arange(self.segments, device=self.boundaries.device)
        return torch.repeat_interleave(segments, self.lengths, output_size=self.tokens)

    @cached_property
    def position_ids(self) -> torch.Tensor:
        """Position of each token in its segment, from 0, int64 [T]."""
        return torch.arange(self.tokens, device=self.boundaries.device) - self.boundaries[self.segment_ids]

    def to(self, device: torch.device | str) -> Packed:
        """The same on another device; the counts are taken first, so that asking for them never waits for it."""
        moved = replace(
            self,
            input_ids=self.input_ids.to(device, non_blocking=True),
            targets=self.targets.to(device, non_blocking=True),
            boundaries=self.boundaries.to(device, non_blocking=True),
            extras={name: value.to(device, non_blocking=True) for name, value in self.extras.items()},
        )
        vars(moved).update(loss_tokens=self.loss_tokens, longest=self.longest)
        return moved


def pack(items: Sequence[Encoded]) -> Packed:
    """Lay sequences end to end, in order.

    Args:
        items: At least one, none of them empty. Those that have an extra must all have it: numbers become [S], lists as
            long as their sequence become [T].

    Raises:
        ValueError: If there are no items, one is empty, or an extra is missing or of the wrong length.
    """
    if not items or not all(len(item) for item in items):
        raise ValueError("pack needs at least one sequence, and no empty ones")
    ids: list[int] = []
    targets: list[int] = []
    boundaries = [0]
    for item in items:
        following = zip(item.input_ids[1:], item.loss_mask[1:])
        ids += item.input_ids
        targets += [token if learned else IGNORED for token, learned in following]
        targets.append(IGNORED)
        boundaries.append(len(ids))
    return Packed(torch.tensor(ids), torch.tensor(targets), torch.tensor(boundaries), _extras(items))


def _extras(items: Sequence[Encoded]) -> dict[str, torch.Tensor]:
    extras = {}
    for name in dict.fromkeys(name for item in items for name in item.extras):
        values: list[int | float] = []
        per_token = isinstance(items[0].extras.get(name), list)
        for item in items:
            value = item.extras.get(name)
            if value is None or isinstance(value, list) != per_token:
                raise ValueError(f"{item.origin}: extra {name!r} must be given for every sequence in the same form")
            if per_token and len(value) != len(item):
                raise ValueError(f"{item.origin}: extra {name!r} has {len(value)} values for {len(item)} tokens")
            values += value if per_token else [value]
        extras[name] = torch.tensor(values)
    return extras


def passes(items: Sequence[Encoded], tokens_per_pass: int) -> list[list[Encoded]]:
    """Split a batch into consecutive passes that fit the memory: as few as possible, and those as even as possible.

    Args:
        items: One optimizer batch.
        tokens_per_pass: The most tokens of a pass; a longer sequence goes alone.

    Returns:
        The same items in the same order. No other split into consecutive passes that keeps the budget has fewer passes,
        and none with as many has a shorter longest pass.
    """
    lengths = [len(item) for item in items]
    fitting = [length for length in lengths if length <= tokens_per_pass]
    fewest = len(_starts(lengths, tokens_per_pass, tokens_per_pass))
    low, high = max(fitting, default=0), tokens_per_pass
    while low < high:  # the smallest cap that needs no more passes
        middle = (low + high) // 2
        if len(_starts(lengths, middle, tokens_per_pass)) <= fewest:
            high = middle
        else:
            low = middle + 1
    starts = _starts(lengths, high, tokens_per_pass)
    return [list(items[start:end]) for start, end in zip(starts, [*starts[1:], len(items)])]


def _starts(lengths: list[int], cap: int, budget: int) -> list[int]:
    """Where passes of at most `cap` tokens begin when each takes all it can; items over the budget stand alone."""
    starts: list[int] = []
    filled = 0
    closed = True  # the first item opens a pass
    for index, length in enumerate(lengths):
        if closed or length > budget or filled + length > cap:
            starts.append(index)
            filled = 0
        filled += length
        closed = length > budget
    return starts


def chunk_text(ids: list[int], length: int, origin: str = "") -> list[Encoded]:
    """Cut a long text into sequences of `length` tokens, every token but the first learned exactly once.

    Neighbours overlap by one token: a sequence begins with the last token of the one before, which it needs as context
    for its first prediction. The last sequence may be shorter.

    Raises:
        BadRequest: If `length` is below 2.
    """
    if length < 2:
        raise BadRequest(f"A text can't be cut into sequences of {length} tokens.", "Use at least 2.")
    chunks = []
    for start in range(0, max(len(ids) - 1, 1), length - 1):
        part = ids[start : start + length]
        chunks.append(Encoded(part, [False, *[True] * (len(part) - 1)], origin))
    return chunks
