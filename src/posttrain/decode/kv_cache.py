"""The key-value cache: one preallocated block a layer, rows of unequal length, no padding.

Each layer holds keys and values in ``[rows, heads, capacity, head_dim]``; row i uses its first ``lengths[i]`` places.
New tokens are written in place. Both dimensions grow geometrically, so a cache of n tokens costs O(n) copies in all.
Rows are dropped, repeated and reordered by `select`, which copies only what a row doesn't hold already: of rows that
parted a few tokens ago, as those of one prompt's hypotheses do, these few tokens.

It stands in for transformers' `Cache`: the network calls `update` in every layer. What a pass does (prefill packed
prompts, or add tokens to every row) is announced before it with `begin_prefill` or `begin_step`.

Left out: windows that forget (a sliding-window layer keeps all keys and masks the old ones) and half-precision storage.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import torch
from transformers import Cache

_FIRST_CAPACITY = 64  # free places a row gets beyond its prompt


@dataclass
class CachePass:
    """What one pass through the network does to the cache.

    Attributes:
        segments: Lengths of the packed prompts of a prefill; None when every row gets the same number of tokens.
        first_row: The row that takes the first segment.
        positions: [B, T] long, where each new token stands in its row.
        width: Longest row after the pass.
        ragged: Whether rows differ in length or the new tokens must not see one another's future.
    """

    segments: list[int] | None
    first_row: int
    positions: torch.Tensor
    width: int
    ragged: bool
    slots: dict[tuple[int, int], torch.Tensor] = field(default_factory=dict)
    masks: dict[int | None, torch.Tensor | None] = field(default_factory=dict)

    def mask(self, window: int | None, dtype: torch.dtype) -> torch.Tensor | None:
        """Additive mask [B, 1, T, width] of a step: 0 where a token may look, -inf elsewhere; None if all is visible.

        Args:
            window: Number of most recent tokens (its own included) that are visible; None for all.
            dtype: Of the mask.
        """
        if window is not None and window >= self.width:
            window = None
        if window not in self.masks:
            self.masks[window] = self._mask(window, dtype)
        return self.masks[window]

    def _mask(self, window: int | None, dtype: torch.dtype) -> torch.Tensor | None:
        if not self.ragged and window is None:
            return None
        distance = self.positions[:, :, None] - torch.arange(self.width, device=self.positions.device)  # [B, T, width]
        hidden = distance < 0
        if window is not None:
            hidden |= distance >= window
        return torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(hidden, -torch.inf)[:, None]


class KeyValueCache(Cache):
    """Keys and values of many sequences; see the module.

    Attributes:
        lengths: Number of tokens held for each row.
    """

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.lengths: list[int] = []
        self._rows = 0
        self._capacity = 0
        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._pass: CachePass | None = None
        # For each token of each row the number of its first writing. Rows that agree at a place agree in all before it.
        self._origins: list[list[int]] = []
        self._writings = count()

    def begin_prefill(self, lengths: list[int], device: torch.device) -> CachePass:
        """Add one row for each of the packed prompts that the next pass will carry."""
        first = len(self.lengths)
        self.lengths = self.lengths + lengths
        self._origins += [[next(self._writings) for _ in range(n)] for n in lengths]
        self._reserve(len(self.lengths), max(lengths), slack=_FIRST_CAPACITY)
        positions = torch.cat([torch.arange(n, device=device) for n in lengths])[None]
        self._pass = CachePass(lengths, first, positions, max(lengths), ragged=len(lengths) > 1)
        return self._pass

    def begin_step(self, tokens: int, device: torch.device) -> CachePass:
        """Add `tokens` tokens to every row with the next pass."""
        before = self.lengths
        self.lengths = [n + tokens for n in before]
        for origins in self._origins:
            origins += [next(self._writings) for _ in range(tokens)]
        width = max(self.lengths)
        self._reserve(len(before), width, slack=0)
        positions = torch.tensor(before, device=device)[:, None]
        if tokens > 1:
            positions = positions + torch.arange(tokens, device=device)
        self._pass = CachePass(None, 0, positions, width, ragged=tokens > 1 or min(before) != max(before))
        return self._pass

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store a layer's new keys and values; called by the network.

        Args:
            key_states: [1, heads, total, head_dim] in a prefill, [B, heads, T, head_dim] in a step.
            value_states: The same with the value's head_dim.
            layer_idx: The layer.

        Returns:
            In a prefill the new keys and values, in a step those of all tokens so far: [B, heads, width, head_dim].
        """
        now = self._pass
        assert now is not None
        if layer_idx not in self._layers:
            self._layers[layer_idx] = (self._allocate(key_states), self._allocate(value_states))
        keys, values = self._layers[layer_idx]
        if now.segments is not None:
            start = 0
            for row, n in enumerate(now.segments, now.first_row):
                keys[row, :, :n] = key_states[0, :, start : start + n]
                values[row, :, :n] = value_states[0, :, start : start + n]
                start += n
            return key_states, value_states
        batch, heads = key_states.shape[:2]
        if (slots := now.slots.get((heads, self._capacity))) is None:
            lines = torch.arange(batch * heads, device=now.positions.device).view(batch, heads, 1) * self._capacity
            slots = (lines + now.positions[:, None]).view(-1)  # [B * heads * T]
            now.slots[heads, self._capacity] = slots
        keys.view(-1, keys.shape[3]).index_copy_(0, slots, key_states.reshape(-1, keys.shape[3]))
        values.view(-1, values.shape[3]).index_copy_(0, slots, value_states.reshape(-1, values.shape[3]))
        return keys[:batch, :, : now.width], values[:batch, :, : now.width]

    def select(self, rows: list[int]) -> None:
        """Make row i what row ``rows[i]`` was; rows may repeat, and rows that aren't named are dropped."""
        before = self._origins
        self.lengths = [self.lengths[old] for old in rows]
        self._origins = [before[old] if new == old else list(before[old]) for new, old in enumerate(rows)]
        self._reserve(len(rows), max(self.lengths, default=0), slack=0)
        moves = [
            (new, old, _shared(before[new], before[old]) if new < len(before) else 0)
            for new, old in enumerate(rows)
            if new != old
        ]
        if moves := [(new, old, first) for new, old, first in moves if first < len(before[old])]:
            self._copy(moves)

    def _copy(self, moves: list[tuple[int, int, int]]) -> None:
        """Give rows the tokens of other rows, all at once: (the row, the other one, the first token to copy) each."""
        new, old, first = torch.tensor(moves).T
        counts = torch.tensor([self.lengths[row] for row, *_ in moves]) - first
        skipped = first - (counts.cumsum(0) - counts)  # a token's place in its row, less its place among those copied
        places = torch.arange(int(counts.sum())) + skipped.repeat_interleave(counts)
        slots: dict[int, list[torch.Tensor]] = {}
        for pair in self._layers.values():
            for block in pair:
                heads = block.shape[1]
                if heads not in slots:
                    each = torch.arange(heads)[:, None]
                    lines = (rows.repeat_interleave(counts) * heads + each for rows in (new, old))  # [heads, tokens]
                    slots[heads] = [(line * self._capacity + places).view(-1).to(block.device) for line in lines]
                to, source = slots[heads]
                flat = block.view(-1, block.shape[3])
                flat.index_copy_(0, to, flat.index_select(0, source))

    def truncate(self, lengths: list[int]) -> None:
        """Forget the last tokens of each row; later tokens overwrite them."""
        self.lengths = [min(new, old) for new, old in zip(lengths, self.lengths, strict=True)]
        for origins, length in zip(self._origins, self.lengths):
            del origins[length:]

    def nbytes(self) -> int:
        """Bytes allocated."""
        return sum(block.numel() * block.element_size() for pair in self._layers.values() for block in pair)

    def _reserve(self, rows: int, tokens: int, slack: int) -> None:
        """Grow the blocks so that `rows` rows of `tokens` tokens fit."""
        if rows <= self._rows and tokens <= self._capacity:
            return
        if rows > self._rows:
            self._rows = max(rows, self._rows * 3 // 2)
        if tokens > self._capacity:
            self._capacity = max(tokens + slack, self._capacity * 2)
        for layer, pair in self._layers.items():
            self._layers[layer] = (self._grown(pair[0]), self._grown(pair[1]))

    def _grown(self, block: torch.Tensor) -> torch.Tensor:
        bigger = self._allocate(block)
        bigger[: block.shape[0], :, : block.shape[2]] = block
        return bigger

    def _allocate(self, like: torch.Tensor) -> torch.Tensor:
        # Zeros: a masked place still enters the weighted sum with weight 0, and 0 * NaN would be NaN.
        return like.new_zeros(self._rows, like.shape[1], self._capacity, like.shape[3])

    # What transformers' mask and position code may ask of a cache.

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens held in the longest row."""
        return max(self.lengths, default=0)

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """Position of the next token in the longest row."""
        return self.get_seq_length(layer_idx)

    def __len__(self) -> int:
        return len(self._layers)


def _shared(one: list[int], other: list[int]) -> int:
    """How many tokens two rows have in common from the beginning, by their origins."""
    return bisect_left(range(min(len(one), len(other))), True, key=lambda place: one[place] != other[place])
