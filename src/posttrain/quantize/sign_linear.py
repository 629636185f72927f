"""A linear layer whose weights are signs: one bit each and a scale a group of inputs, or a sum of several such layers.

The bits lie packed, and the kernels read them as they are stored. Activations stay in floating point.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from posttrain.models.surgery import features
from posttrain.ops import affine
from posttrain.ops.packed_linear import packed_linear, packed_weight


class SignLinear(nn.Module):
    """Stands where an nn.Linear or GPT-2's Conv1D stood; it has no parameters, so nothing trains it.

    Attributes:
        weight: The signs, uint8 [order, outputs, ceil(inputs / 8)]; a bit is 1 where the weight isn't negative.
        scale: float16 [order, outputs, groups], the distance between a group's two values: -scale / 2 and scale / 2.
        bias: float32 [outputs] or None.
    """

    is_linear = True

    def __init__(self, inputs: int, outputs: int, bias: bool, group_size: int | None, order: int) -> None:
        super().__init__()
        self.in_features, self.out_features, self.order = inputs, outputs, order
        self.width = min(group_size or inputs, inputs)
        self.weight: Tensor
        self.scale: Tensor
        self.bias: Tensor | None
        groups = -(-inputs // self.width)
        self.register_buffer("weight", torch.empty(order, outputs, -(-inputs // 8), dtype=torch.uint8))
        self.register_buffer("scale", torch.empty(order, outputs, groups, dtype=torch.float16))
        self.register_buffer("bias", torch.empty(outputs, dtype=torch.float32) if bias else None)

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs] in the type of `x`; differentiable with respect to `x`."""
        y, bias = None, self.bias
        for signs, scale in zip(self.weight, self.scale):
            part = packed_linear(x, signs, scale, bias=bias, bits=1, group_size=self.width)
            y, bias = part if y is None else y + part, None
        assert y is not None
        return y

    def fill(self, signs: Tensor, scale: Tensor) -> None:
        """Take over signs [order, outputs, inputs] and scales [order, outputs, groups] as `binarize` gives them."""
        self.weight.copy_(affine.pack(signs.to(torch.uint8), 1))
        self.scale.copy_(scale)

    def effective_weight(self) -> Tensor:
        """The matrix it amounts to, float32 [outputs, inputs]."""
        parts = (
            packed_weight(signs, scale, None, bits=1, group_size=self.width, inputs=self.in_features)
            for signs, scale in zip(self.weight, self.scale)
        )
        return torch.stack(list(parts)).sum(0)

    def extra_repr(self) -> str:
        """Shown when the network is printed, and part of a model's fingerprint."""
        return (
            f"{self.in_features}, {self.out_features}, bias={self.bias is not None}, order={self.order}, "
            f"group_size={self.width}"
        )


def binarize(matrix: Tensor, group_size: int | None, order: int) -> tuple[Tensor, Tensor]:
    """Signs and scales: sign(W) and twice the mean of |W|, then those of what is left, and so on.

    Args:
        matrix: [outputs, inputs], floating.
        group_size: Neighbouring inputs that share a scale; None for all. The last group may be shorter.
        order: How often.

    Returns:
        Signs, bool [order, outputs, inputs], true from zero on; scales, float32 [order, outputs, groups], each exactly
        a half-precision number.
    """
    inputs = matrix.shape[1]
    width = min(group_size or inputs, inputs)
    rest = functional.pad(matrix.float(), (0, -inputs % width)).unflatten(1, (-1, width))  # [outputs, groups, width]
    counts = functional.pad(rest.new_ones(inputs), (0, -inputs % width)).unflatten(0, (-1, width)).sum(1)  # [groups]
    inside = torch.arange(rest[0].numel(), device=rest.device).view(rest.shape[1:]) < inputs
    signs, scales = [], []
    for _ in range(order):
        # The distance of the two values, rounded as it is stored, so that the next signs make up for that too.
        scale = (2 * rest.abs().sum(2) / counts).to(torch.float16).float()  # [outputs, groups]
        sign = rest >= 0
        rest = torch.where(inside, rest - torch.where(sign, 0.5, -0.5) * scale[..., None], 0.0)
        signs.append(sign.flatten(1)[:, :inputs])
        scales.append(scale)
    return torch.stack(signs), torch.stack(scales)


def empty_signs(layer: nn.Module, group_size: int | None, order: int) -> SignLinear:
    """A `SignLinear` for the place of a layer, with empty tensors."""
    inputs, outputs = features(layer)
    return SignLinear(inputs, outputs, layer.bias is not None, group_size, order)
