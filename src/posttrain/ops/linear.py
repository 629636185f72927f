"""The linear map ``x W^T + b`` on a CPU, by the faster of the two libraries that torch brings along.

In float32 torch hands matrix products to MKL, which uses half of the vector width on processors that aren't Intel's;
its other library, oneDNN, uses all of it, and reads the weights as they lie. With 16 rows or fewer, the most when texts
are written token by token, both are faster at ``W x^T``, which reads the same memory: MKL up to 4 rows (a single row
being fastest as two equal ones), oneDNN above. `docs/log.md` has the figures. Everything else, such as other types,
other devices and autocast, is `torch.nn.functional.linear`, and so are all results up to rounding.
"""

from __future__ import annotations

import platform
from functools import cache
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_FEW = 16
_FEWER = 4

_PIECE = 8192  # outputs


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x W^T + b``, differentiable any number of times.

    Args:
        x: [..., inputs].
        weight: [outputs, inputs], contiguous or not.
        bias: [outputs] or None.

    Returns:
        [..., outputs].
    """
    if not _suits(x, weight, bias):
        return functional.linear(x, weight, bias)
    rows = x.reshape(-1, x.shape[-1])
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias)):
        y: Tensor = _Linear.apply(rows, weight, bias)
    elif len(rows) <= _FEW:
        y = _few(rows, weight, bias)
    else:
        y = _product(rows, weight, bias)
    return y.view(*x.shape[:-1], len(weight))


def linear_into(out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None, scale: float = 1.0) -> None:
    """Write ``scale * (x W^T + b)`` over what is there; without gradients.

    Args:
        out: [n, outputs], of the type of the others.
        x: [n, inputs].
        weight: [outputs, inputs].
        bias: [outputs] or None.
        scale: Factor.
    """
    if not _suits(x, weight, bias):
        if bias is None:  # beta = 0: the first argument is not read
            torch.addmm(out, x, weight.t(), beta=0, alpha=scale, out=out)
        else:
            torch.addmm(bias, x, weight.t(), beta=scale, alpha=scale, out=out)
        return
    # oneDNN writes into memory of its own; pieces keep that small and in the processor's cache.
    for begin in range(0, len(weight), _PIECE):
        piece = slice(begin, begin + _PIECE)
        product = _product(x, weight[piece], None if bias is None else bias[piece])
        torch.mul(product, scale, out=out[:, piece])


def adopt(network: nn.Module) -> None:
    """Let the plain linear layers of a network compute by `linear` from now on.

    Layers of any other class stay as they are, and so do layers whose `forward` somebody has replaced. Copies of the
    network keep it.
    """
    for module in network.modules():
        if type(module) is nn.Linear and "forward" not in vars(module):
            module.forward = MethodType(_forward, module)  # type: ignore[method-assign]


def _forward(self: nn.Linear, x: Tensor) -> Tensor:
    return linear(x, self.weight, self.bias)


@cache
def _available() -> bool:
    """Whether torch was built with oneDNN and its linear map for this processor."""
    known = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return known and platform.machine() in ("x86_64", "AMD64")


def _suits(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    return (
        _available()
        and all(t is None or (t.dtype == torch.float32 and t.device.type == "cpu") for t in (x, weight, bias))
        and x.numel() > 0
        and weight.dim() == 2
        and weight.numel() > 0
        and x.shape[-1] == weight.shape[1]
        and not torch.is_autocast_enabled("cpu")
        and bool(torch.backends.mkldnn.enabled)
    )


def _product(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
    return product


def _few(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The same for few rows, [n, inputs] -> [n, outputs]."""
    number = len(rows)
    if number <= _FEWER:
        columns = (torch.cat((rows, rows)) if number == 1 else rows).t()
        y = torch.mm(weight, columns) if bias is None else torch.addmm(bias[:, None], weight, columns)
        return y[:, :number].t().contiguous()
    y = _product(weight, rows).t().contiguous()
    return y if bias is None else y.add_(bias)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        # What no gradient needs isn't kept: the rows beside a frozen weight.
        ctx.save_for_backward(rows if ctx.needs_input_grad[1] else None, weight if ctx.needs_input_grad[0] else None)
        return _product(rows, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        rows, weight = ctx.saved_tensors
        of_rows = linear(gradient, weight.t()) if ctx.needs_input_grad[0] else None
        of_weight = linear(gradient.t(), rows.t()) if ctx.needs_input_grad[1] else None
        return of_rows, of_weight, gradient.sum(0) if ctx.needs_input_grad[2] else None
