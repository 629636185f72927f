"""A linear layer with weights of 2 to 8 bits, one scale for a group of inputs or a whole output channel.

Nothing is unpacked for good: the kernels read the codes as they are stored, so the layer is as small in memory as on
disk. Activations stay in floating point.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from posttrain.core.errors import BadRequest, Failure
from posttrain.models.surgery import IntegerWeight, features
from posttrain.ops import affine
from posttrain.ops.packed_linear import packed_linear, packed_weight
from posttrain.quantize.linear import matrix_of

if TYPE_CHECKING:
    from posttrain.quantize.grid import Grid


class GroupedLinear(nn.Module):
    """Stands where an nn.Linear or GPT-2's Conv1D stood; it has no parameters, so nothing trains it.

    Attributes:
        weight: The codes, uint8 [outputs, ceil(inputs * bits / 8)].
        scale: float16 [outputs, groups].
        zero_point: uint8 [outputs, ceil(groups * bits / 8)], packed like the codes; None if symmetric.
        order: int32 [inputs]: the stored column j belongs to the input order[j]; None if columns lie as they came.
        bias: float32 [outputs] or None.
    """

    is_linear = True

    def __init__(self, inputs: int, outputs: int, bias: bool, grid: Grid, ordered: bool = False) -> None:
        super().__init__()
        self.in_features, self.out_features, self.grid = inputs, outputs, grid
        groups = grid.groups(inputs)
        self.weight: Tensor
        self.scale: Tensor
        self.zero_point: Tensor | None
        self.order: Tensor | None
        self.bias: Tensor | None
        self.register_buffer("weight", torch.empty(outputs, _bytes(inputs, grid.bits), dtype=torch.uint8))
        self.register_buffer("scale", torch.empty(outputs, groups, dtype=torch.float16))
        zero_point = None if grid.symmetric else torch.empty(outputs, _bytes(groups, grid.bits), dtype=torch.uint8)
        self.register_buffer("zero_point", zero_point)
        self.register_buffer("order", torch.empty(inputs, dtype=torch.int32) if ordered else None)
        self.register_buffer("bias", torch.empty(outputs, dtype=torch.float32) if bias else None)

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs] in the type of `x`; differentiable with respect to `x`."""
        if self.order is not None:
            x = x.index_select(-1, self.order)
        return packed_linear(
            x,
            self.weight,
            self.scale,
            self.zero_point,
            self.bias,
            bits=self.grid.bits,
            group_size=self.grid.width(self.in_features),
        )

    def fill(self, codes: Tensor, scale: Tensor, zero_point: Tensor, order: Tensor | None = None) -> None:
        """Take over codes uint8 [outputs, inputs] with scale and zero-point [outputs, groups] as `Grid` gives them.

        Args:
            order: int [inputs], for a layer made with one: the input that each column of `codes` belongs to.
        """
        self.weight.copy_(affine.pack(codes, self.grid.bits))
        self.scale.copy_(scale)
        if self.zero_point is not None:
            self.zero_point.copy_(affine.pack(zero_point.to(torch.uint8), self.grid.bits))
        if self.order is not None and order is not None:
            self.order.copy_(order)

    def effective_weight(self) -> Tensor:
        """The matrix it amounts to, float32 [outputs, inputs]."""
        matrix = packed_weight(
            self.weight,
            self.scale,
            self.zero_point,
            bits=self.grid.bits,
            group_size=self.grid.width(self.in_features),
            inputs=self.in_features,
        )
        return matrix if self.order is None else matrix[:, self.order.argsort()]

    def integer_weight(self) -> IntegerWeight:
        """The codes in the order of the inputs, with what they count from and how much each step is.

        Raises:
            BadRequest: If the columns lie in an order of their own: then groups aren't of neighbouring inputs.
        """
        if self.order is not None:
            raise BadRequest(
                "The layers keep their inputs in order of their importance, so groups aren't of neighbouring inputs.",
                "Quantize with static_groups: true.",
            )
        bits, groups = self.grid.bits, self.grid.groups(self.in_features)
        return IntegerWeight(
            codes=affine.unpack(self.weight, bits, self.in_features),
            scale=self.scale,
            zero_point=None if self.zero_point is None else affine.unpack(self.zero_point, bits, groups),
            bits=bits,
            group_size=self.grid.width(self.in_features),
        )

    def extra_repr(self) -> str:
        """Shown when the network is printed, and part of a model's fingerprint."""
        return (
            f"{self.in_features}, {self.out_features}, bias={self.bias is not None}, bits={self.grid.bits}, "
            f"group_size={self.grid.group_size}, symmetric={self.grid.symmetric}, ordered={self.order is not None}"
        )


def empty_grouped(layer: nn.Module, grid: Grid, ordered: bool = False) -> GroupedLinear:
    """A `GroupedLinear` for the place of a layer, with empty tensors."""
    inputs, outputs = features(layer)
    return GroupedLinear(inputs, outputs, layer.bias is not None, grid, ordered)


def grouped(
    name: str,
    layer: nn.Module,
    grid: Grid,
    codes: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    order: Tensor | None = None,
) -> GroupedLinear:
    """What takes the place of a layer, with its bias and the given codes.

    Args:
        name: Of the layer, for the error.
        layer: An nn.Linear or a Conv1D.
        grid: What the codes were rounded to.
        codes, scale, zero_point, order: As `GroupedLinear.fill` takes them.

    Raises:
        Failure: If a scale is no finite number.
    """
    check_scale(name, scale)
    quantized = empty_grouped(layer, grid, ordered=order is not None).to(matrix_of(layer).device)
    quantized.fill(codes, scale, zero_point, order)
    if quantized.bias is not None and isinstance(layer.bias, Tensor):
        quantized.bias.copy_(layer.bias.detach())
    return quantized.train(layer.training)


def check_scale(name: str, scale: Tensor) -> None:
    """Refuse weights that have no scale.

    Raises:
        Failure: If a scale is no finite number.
    """
    if not scale.isfinite().all():
        raise Failure(f"{name} has weights that are not numbers, or too large for a scale in half precision.")


def _bytes(codes: int, bits: int) -> int:
    return -(-codes * bits // 8)
