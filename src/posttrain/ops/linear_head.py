"""The output head of a language model, walked over in chunks of rows: logits in, gradients out, never all at once.

What the functions of `logprobs` and `linear_divergence` have in common. With f(u) = softcap * tanh(u / softcap), or the
identity,

    logits = f(scale * (hidden @ weight.T + bias))                                         [N, V]

Left out: what is computed of the logits; whoever asks for the chunks says it, and gives back its gradient.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from posttrain.ops.linear import linear, linear_into


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type that sums over the vocabulary are taken in: float64 for float64, float32 for everything else."""
    return torch.float64 if dtype == torch.float64 else torch.float32


class HeadSettings(NamedTuple):
    """What a head needs beside its tensors.

    Attributes:
        chunk: The most rows of logits held at a time.
        softcap: Squash logits to (-softcap, softcap); None doesn't.
        scale: Factor on the logits before the softcap.
    """

    chunk: int
    softcap: float | None
    scale: float


def checked_head(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, settings: HeadSettings
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Refuse what doesn't fit; return (hidden, weight, bias) in the type the product is taken in.

    That is autocast's type where it is on, and the head's own otherwise.

    Raises:
        ValueError: Shapes that do not fit, a chunk below one, or a softcap that is not positive.
    """
    if hidden.dim() != 2 or weight.dim() != 2 or hidden.shape[1] != weight.shape[1]:
        raise ValueError(f"hidden [N, H] and weight [V, H] do not fit: {list(hidden.shape)}, {list(weight.shape)}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias must be {list(weight.shape[:1])}, not {list(bias.shape)}")
    if settings.chunk < 1:
        raise ValueError(f"chunk must be at least 1, not {settings.chunk}")
    if settings.softcap is not None and settings.softcap <= 0:
        raise ValueError(f"softcap must be positive, not {settings.softcap}")
    device = weight.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    return hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)


class LinearHead(NamedTuple):
    """The output head: rows of hidden states in, rows of logits out."""

    weight: Tensor
    bias: Tensor | None
    settings: HeadSettings

    def chunks(self, hidden: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Yield (rows, logits, buffer) for equal chunks of rows; both tensors [n, V] are overwritten by the next chunk.

        The logits are in the accumulation type and may be changed in place. The buffer has the head's type and serves
        for what goes back into a matrix product; it is the same memory as the logits when the types agree.
        """
        chunk, softcap, scale = self.settings
        total, vocabulary = hidden.shape[0], self.weight.shape[0]
        size = max(1, math.ceil(total / max(1, math.ceil(total / chunk))))
        narrow = self.weight.new_empty(size, vocabulary)
        dtype = accumulation_dtype(narrow.dtype)
        wide = narrow if narrow.dtype == dtype else torch.empty_like(narrow, dtype=dtype)
        for start in range(0, total, size):
            rows = slice(start, min(start + size, total))
            buffer, logits = narrow[: rows.stop - start], wide[: rows.stop - start]
            linear_into(buffer, hidden[rows], self.weight, self.bias, scale)
            if wide is not narrow:
                logits.copy_(buffer)
            if softcap is not None:
                logits.div_(softcap).tanh_().mul_(softcap)
            yield rows, logits, buffer

    def slope(self, logits: Tensor) -> Tensor | None:
        """The softcap's derivative 1 - (logits / softcap)^2, [n, V], or None without a softcap."""
        softcap = self.settings.softcap
        return None if softcap is None else (logits / softcap).square_().neg_().add_(1)


class HeadGradients:
    """Gradients with respect to hidden states, weight and bias, gathered chunk by chunk, for those that need one."""

    def __init__(self, head: LinearHead, hidden: Tensor, needed: tuple[bool, ...]):
        for_hidden, for_weight, for_bias = needed
        dtype = accumulation_dtype(hidden.dtype)
        self.head = head
        self.source = hidden
        self.hidden = torch.empty_like(hidden) if for_hidden else None
        self.weight = torch.zeros_like(head.weight, dtype=dtype) if for_weight else None
        self.bias = head.weight.new_zeros(head.weight.shape[0], dtype=dtype) if for_bias else None

    def add(self, rows: slice, gradient: Tensor, factor: Tensor, slope: Tensor | None, buffer: Tensor) -> None:
        """Add one chunk's share, overwriting `gradient` and `buffer`.

        Args:
            rows: The chunk's rows.
            gradient: [n, V], of the value with respect to the logits, less the factor, in the accumulation type.
            factor: [n, 1], each row's.
            slope: [n, V] from `LinearHead.slope`.
            buffer: [n, V] in the head's type; may be the same memory as `gradient`.
        """
        if slope is not None:
            gradient.mul_(slope)
        gradient.mul_(factor * self.head.settings.scale)
        if buffer.dtype == gradient.dtype:
            buffer = gradient
        else:
            buffer.copy_(gradient)
        if self.hidden is not None:
            self.hidden[rows] = linear(buffer, self.head.weight.t())
        if self.weight is not None:
            if self.weight.dtype == buffer.dtype:
                self.weight.addmm_(buffer.t(), self.source[rows])
            else:  # converted in pieces of the vocabulary, so that no second [V, H] is needed
                for weight, piece in zip(self.weight.split(4096), buffer.split(4096, dim=1), strict=True):
                    weight.add_((piece.t() @ self.source[rows]).to(weight.dtype))
        if self.bias is not None:
            self.bias.add_(buffer.sum(0, dtype=self.bias.dtype))

    def results(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The gradients with respect to (hidden, weight, bias), in the head's type."""
        dtype = self.head.weight.dtype
        weight = None if self.weight is None else self.weight.to(dtype)
        bias = None if self.bias is None else self.bias.to(dtype)
        return self.hidden, weight, bias
