"""What methods that round weights to a grid and leave activations alone have in common: their settings and layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypeAlias

from pydantic import AfterValidator, Field

from posttrain.models.surgery import replace
from posttrain.quantize.grid import Grid
from posttrain.quantize.grouped_linear import empty_grouped
from posttrain.quantize.methods import Quantizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def _whole_channel(value: int | None) -> int | None:
    if value == 0:
        raise ValueError("a group has at least one weight; -1 makes one of a whole channel")
    return None if value == -1 else value


GroupSize: TypeAlias = Annotated[int | None, Field(ge=-1), AfterValidator(_whole_channel)]
"""Inputs that share a scale; -1 and None mean a whole channel, and become None."""


class WeightOnly(Quantizer):
    """Base of methods whose targets become `GroupedLinear` layers."""

    bits: int = Field(4, ge=2, le=8)
    """Bits a weight."""

    group_size: GroupSize = 64
    """Neighbouring inputs of an output channel that share a scale; -1 or null for the whole channel."""

    symmetric: bool = False
    """Fix the zero-point in the middle; otherwise each group has its own, which costs `bits` more a group."""

    clipping: bool = False
    """Search each group's range for the least squared error of its weights, down to half of what they span."""

    @property
    def grid(self) -> Grid:
        """What weights are rounded to."""
        return Grid(self.bits, self.group_size, self.symmetric, self.clipping)

    @property
    def ordered(self) -> bool:
        """Whether the layers keep their columns in an order of their own."""
        return False

    def prepare(self, network: PreTrainedModel) -> None:
        """Put empty `GroupedLinear` layers in place."""
        for name, layer in self.chosen(network).items():
            replace(network, name, empty_grouped(layer, self.grid, self.ordered))
