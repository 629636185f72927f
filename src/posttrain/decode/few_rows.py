"""Faster products of a linear layer with few rows on a CPU.

A step multiplies every weight matrix [out, in] by 1 to 16 rows. Torch computes that as ``x W^T``, a shape its CPU
libraries are slow at; ``W x^T`` reads the same memory and, depending on the processor, takes a half to a third of the
time, a single row being fastest as two equal ones. Inside `few_rows` every plain float32 `nn.Linear` takes that way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional

_MOST_ROWS = 16


@contextmanager
def few_rows(network: nn.Module) -> Iterator[None]:
    """Let the network's plain linear layers on the CPU take the faster way until the block ends.

    Layers of any other class, precision or device, and layers whose `forward` somebody has already replaced, stay as
    they are.
    """
    layers = [
        module
        for module in network.modules()
        if type(module) is nn.Linear
        and module.weight.dtype == torch.float32
        and module.weight.device.type == "cpu"
        and "forward" not in vars(module)
    ]
    for layer in layers:
        layer.forward = _forward(layer.weight, layer.bias)  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _forward(weight: torch.Tensor, bias: torch.Tensor | None) -> Callable[[torch.Tensor], torch.Tensor]:
    outputs, inputs = weight.shape
    column = None if bias is None else bias[:, None]

    def forward(x: torch.Tensor) -> torch.Tensor:
        rows = x.numel() // inputs
        if not 1 <= rows <= _MOST_ROWS or x.dtype != torch.float32:
            return functional.linear(x, weight, bias)
        flat = x.reshape(rows, inputs)
        if rows == 1:
            flat = torch.cat((flat, flat))
        elif 9 < rows < _MOST_ROWS:  # the library's kernels for these widths are slower than the one for 16
            flat = functional.pad(flat, (0, 0, 0, _MOST_ROWS - rows))
        product = torch.mm(weight, flat.t()) if column is None else torch.addmm(column, weight, flat.t())
        return product[:, :rows].t().contiguous().view(*x.shape[:-1], outputs)

    return forward
