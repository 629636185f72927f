"""Weights that are mapped from a file, given back to the operating system once they were read.

A network read from safetensors lies in a file mapped into memory: pages come in when they are touched and then count as
the process's own. Work that goes through a network few times with much to do each time, such as measuring, needs only a
block's weights at a time; the pages of the others are dropped, and come back from the system's file cache, which costs
a few hundredths of a second a pass. Only pages that nobody has written to are dropped, so no change is ever lost.
On systems other than Linux nothing is dropped.
"""

from __future__ import annotations

import bisect
import ctypes
import mmap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

_DONT_NEED = 4  # Linux's MADV_DONTNEED
_MAPS = Path("/proc/self/smaps")


class MappedWeights:
    """The file mappings of this process that hold no written page, as they are at the time of the call.

    What is written to them afterwards would be lost by `release`, so keep it only for as long as nothing is trained.
    """

    def __init__(self) -> None:
        self._ranges = _clean_mappings(_MAPS.read_text()) if _madvise() and _MAPS.exists() else []
        self._starts = [start for start, _ in self._ranges]

    def release(self, tensors: Iterable[torch.Tensor]) -> int:
        """Drop the pages that hold nothing but these tensors, where they lie in such a mapping.

        Returns:
            Bytes dropped.
        """
        dropped = 0
        for tensor in tensors:
            if tensor.device.type != "cpu" or not tensor.is_contiguous():
                continue
            begin, end = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
            place = bisect.bisect_right(self._starts, begin) - 1
            if place < 0 or end > self._ranges[place][1]:
                continue
            first = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE
            size = end // mmap.PAGESIZE * mmap.PAGESIZE - first
            if size > 0 and _madvise()(first, size, _DONT_NEED) == 0:
                dropped += size
        return dropped


@contextmanager
def blocks_released(network: nn.Module) -> Iterator[None]:
    """Until the end of the block each of the network's blocks gives its weights' pages back when it is done.

    Nothing may write to the network's weights meanwhile.
    """
    mapped = MappedWeights()

    def release(module: nn.Module, inputs: Any, output: Any) -> None:
        mapped.release(module.parameters())

    lists = [module for module in network.modules() if isinstance(module, nn.ModuleList)]
    handles = [block.register_forward_hook(release) for blocks in lists for block in blocks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@cache
def _madvise() -> Any:
    """The system's madvise(address, size, advice), None where it isn't Linux's."""
    if not hasattr(mmap, "MADV_DONTNEED") or mmap.MADV_DONTNEED != _DONT_NEED:
        return None
    function = ctypes.CDLL(None, use_errno=True).madvise
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return function


def _clean_mappings(maps: str) -> list[tuple[int, int]]:
    """Address ranges [start, end) of private file mappings without a written page, ascending, from smaps' text."""
    found: list[tuple[int, int]] = []
    candidate: tuple[int, int] | None = None
    for line in maps.splitlines():
        first, *others = line.split(maxsplit=5)
        if not first.endswith(":"):  # 7f00-7f10 rw-p 00000000 08:01 123 /path
            start, end = (int(part, 16) for part in first.split("-"))
            private_file = others[0][3] == "p" and len(others) == 5 and others[4].startswith("/")
            candidate = (start, end) if private_file else None
        elif first == "Anonymous:" and candidate is not None and int(others[0]) == 0:
            found.append(candidate)
    return found
