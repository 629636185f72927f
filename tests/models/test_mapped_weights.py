"""Pages of mapped weights are dropped and come back; written ones stay."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from posttrain.models import mapped_weights
from posttrain.models.mapped_weights import MappedWeights, blocks_released

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="pages are dropped on Linux alone")

ROWS = 300_000  # of 4 bytes: well above a page


def mapped(tmp_path: Path, names: tuple[str, ...] = ("a",)) -> dict[str, torch.Tensor]:
    """Tensors that lie in a file mapped into memory, read once."""
    save_file({name: torch.arange(float(ROWS)) + place for place, name in enumerate(names)}, tmp_path / "w.safetensors")
    tensors = load_file(tmp_path / "w.safetensors")
    for tensor in tensors.values():
        tensor.sum()
    return tensors


def resident(tmp_path: Path) -> int:
    """Bytes of the file that count as this process's memory."""
    inside, total = False, 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            inside = str(tmp_path) in line
        elif inside and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total


@linux
def test_dropped_pages_come_back(tmp_path: Path) -> None:
    tensors = mapped(tmp_path)
    before = resident(tmp_path)
    assert before >= ROWS * 4 - 8192
    dropped = MappedWeights().release(tensors.values())
    assert ROWS * 4 - 8192 <= dropped <= ROWS * 4
    assert resident(tmp_path) <= 8192
    assert torch.equal(tensors["a"], torch.arange(float(ROWS)))


@linux
def test_what_was_written_stays(tmp_path: Path) -> None:
    tensors = mapped(tmp_path)
    tensors["a"][5] = -1.0
    assert MappedWeights().release(tensors.values()) == 0
    assert tensors["a"][5] == -1


@linux
def test_only_pages_that_hold_nothing_else(tmp_path: Path) -> None:
    tensor = mapped(tmp_path)["a"]
    assert MappedWeights().release([tensor[:10]]) == 0  # less than a page
    assert MappedWeights().release([tensor[::2]]) == 0  # not contiguous
    assert MappedWeights().release([torch.ones(ROWS), torch.empty(0)]) == 0  # in no file


def test_mappings_are_told_apart() -> None:
    text = """\
1000-3000 r--p 00000000 08:01 12 /models/a file.safetensors
Rss:                   8 kB
Anonymous:             0 kB
VmFlags: rd mr
3000-5000 rw-p 00000000 08:01 13 /models/written.safetensors
Anonymous:             4 kB
5000-6000 rw-s 00000000 08:01 14 /models/shared.safetensors
Anonymous:             0 kB
6000-7000 rw-p 00000000 00:00 0
Anonymous:             0 kB
7000-8000 rw-p 00000000 00:00 0 [heap]
Anonymous:             0 kB
a000-b000 rw-p 00000000 08:01 15 /models/b.safetensors
Anonymous:             0 kB
"""
    assert mapped_weights._clean_mappings(text) == [(0x1000, 0x3000), (0xA000, 0xB000)]


def test_no_mappings_where_the_system_has_no_such_call(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(mapped_weights, "_madvise", lambda: None)
    assert MappedWeights().release(mapped(tmp_path).values()) == 0


@linux
def test_blocks_are_released_one_by_one(tmp_path: Path) -> None:
    class Block(nn.Module):
        def __init__(self, weight: torch.Tensor) -> None:
            super().__init__()
            self.weight = nn.Parameter(weight)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            most.append(resident(tmp_path))
            return x + self.weight.sum()

    class Network(nn.Module):
        def __init__(self, weights: list[torch.Tensor]) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(Block(weight) for weight in weights)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for block in self.blocks:
                x = block(x)
            return x

    most: list[int] = []
    tensors = mapped(tmp_path, ("a", "b", "c"))
    network = Network([tensors[name] for name in "abc"])
    x = torch.zeros(1)
    with torch.inference_mode():
        expected = network(x)
        MappedWeights().release(tensors.values())
        most.clear()
        with blocks_released(network):
            assert torch.equal(network(x), expected)
        assert max(most) < ROWS  # each block finds at most a few pages of its neighbours in memory
        most.clear()
        network(x)
        assert max(most) > ROWS * 4  # and nothing is dropped afterwards
