"""Batches: an endless, resumable source of optimizer steps, and padding for networks that can't take packed input."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

import numpy
import torch

from posttrain.core.errors import BadRequest
from posttrain.data.encoded import Encoded
from posttrain.data.packing import IGNORED, Packed, pack, passes

Pass = TypeVar("Pass")


class Batches(Generic[Pass]):
    """Epoch after epoch of optimizer steps, each a list of passes that fit the memory.

    The order of an epoch depends on seed and epoch alone, so a run that stops and goes on sees what it would have seen.
    Iterating goes on from the present position, which `state_dict` gives and `load_state_dict` sets.

    Args:
        items: All sequences of an epoch.
        batch_size: Sequences per optimizer step; the last step of an epoch may have fewer.
        tokens_per_pass: The most tokens that go through the network at once.
        seed: Of the order.
        shuffle: Draw a new order for each epoch.
        drop_last: Leave out an epoch's last step when it has fewer than `batch_size` sequences.
        collate: Makes a pass from its sequences.

    Raises:
        BadRequest: If an epoch would have no step.
    """

    def __init__(
        self,
        items: Sequence[Encoded],
        batch_size: int,
        tokens_per_pass: int,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
        collate: Callable[[Sequence[Encoded]], Pass] = pack,  # type: ignore[assignment]
    ) -> None:
        self.items = items
        self.batch_size = batch_size
        self.tokens_per_pass = tokens_per_pass
        self.seed = seed
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.collate = collate
        self.epoch = 0
        self.index = 0
        if batch_size < 1 or tokens_per_pass < 1:
            raise BadRequest(f"batch_size={batch_size} and tokens_per_pass={tokens_per_pass} must be at least 1.")
        if len(self) == 0:
            raise BadRequest(f"{len(items)} sequences make no batch of {batch_size}.", "Use a smaller batch_size.")

    def __len__(self) -> int:
        """Steps per epoch."""
        full, rest = divmod(len(self.items), self.batch_size)
        return full + (1 if rest and not self.drop_last else 0)

    def order(self, epoch: int) -> list[int]:
        """Indices of the items in the order of an epoch."""
        if not self.shuffle:
            return list(range(len(self.items)))
        return numpy.random.default_rng((self.seed, epoch)).permutation(len(self.items)).tolist()

    def __iter__(self) -> Iterator[list[Pass]]:
        """Steps without end, from the present position on."""
        while True:
            epoch, order = self.epoch, self.order(self.epoch)
            while self.epoch == epoch:
                start = self.index * self.batch_size
                batch = [self.items[i] for i in order[start : start + self.batch_size]]
                self.index += 1
                if self.index == len(self):
                    self.epoch, self.index = self.epoch + 1, 0
                yield [self.collate(part) for part in passes(batch, self.tokens_per_pass)]

    def state_dict(self) -> dict[str, int]:
        """The position after the last step taken; JSON-able."""
        return {"epoch": self.epoch, "index": self.index}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go to a position that `state_dict` gave.

        Raises:
            BadRequest: If this source has no such position, so that it can't be the one that gave it.
        """
        epoch, index = int(state["epoch"]), int(state["index"])
        if epoch < 0 or not 0 <= index < len(self):
            raise BadRequest(
                f"The saved position, step {index} of epoch {epoch}, doesn't exist: an epoch has {len(self)} steps.",
                "Resume with the same data and batch_size, or start anew.",
            )
        self.epoch, self.index = epoch, index


def padded(batch: Packed | Sequence[Packed], pad_id: int) -> dict[str, torch.Tensor]:
    """Packed segments as rows of one rectangle, padded on the right.

    Args:
        batch: One or several packed batches with S segments in all, the longest of L tokens.
        pad_id: Fills `input_ids`.

    Returns:
        ``input_ids``, ``attention_mask`` (1 on real tokens) and ``targets`` (-100 on padding), each int64 [S, L].
    """
    packs = [batch] if isinstance(batch, Packed) else list(batch)
    lengths = torch.cat([pack.lengths for pack in packs])
    real = torch.arange(int(lengths.max()), device=lengths.device) < lengths[:, None]  # [S, L]
    rows = {}
    for name, fill in (("input_ids", pad_id), ("targets", IGNORED)):
        values = torch.cat([getattr(pack, name) for pack in packs])  # [T], in the order of the true cells of `real`
        rows[name] = values.new_full(real.shape, fill).masked_scatter(real, values)
    return {"input_ids": rows["input_ids"], "attention_mask": real.long(), "targets": rows["targets"]}
