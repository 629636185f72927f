"""Round to nearest: each weight by itself, to 2 to 8 bits in groups that share a scale; activations stay as they are.

The baseline of every other weight-only method (as in Frantar et al., 2023, "GPTQ", section 5): no calibration, a second
for a small model, good at 8 bits and usable at 4 in small groups. The range of a group is that of its weights, or with
`clipping` the one that leaves the least squared error. A layer that learned its scales keeps them where the grid is the
same. Left out: anything that looks at activations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace as with_fields
from typing import TYPE_CHECKING

from posttrain.core import events
from posttrain.models.surgery import replace
from posttrain.quantize.fake_linear import FakeQuantizedLinear
from posttrain.quantize.grouped_linear import grouped
from posttrain.quantize.linear import matrix_of
from posttrain.quantize.weight_only import WeightOnly

if TYPE_CHECKING:
    from torch import Tensor, nn

    from posttrain.models.language_model import LanguageModel
    from posttrain.quantize.grid import Grid


class RoundToNearest(WeightOnly):
    """Weights of few bits, each rounded by itself."""

    def apply(self, model: LanguageModel, calibration: Sequence[Sequence[int]] | None) -> None:
        """Replace every target by a `GroupedLinear` holding its rounded weights.

        Raises:
            BadRequest: See `Quantizer.chosen`; the network is unchanged then.
            Failure: If a layer has weights that are no numbers.
        """
        layers, grid = self.chosen(model.network), self.grid
        with events.task("Quantize", total=len(layers), unit="layers") as progress:
            for name, layer in progress.over(layers.items()):
                matrix = matrix_of(layer)
                scale, zero_point = _learned(layer, grid) or grid.parameters(matrix)
                codes = grid.codes(matrix, scale, zero_point)
                replace(model.network, name, grouped(name, layer, grid, codes, scale, zero_point))


def _learned(layer: nn.Module, grid: Grid) -> tuple[Tensor, Tensor] | None:
    """The scales and zero-points that a layer was trained with, if it learned them and this is its grid."""
    if not isinstance(layer, FakeQuantizedLinear) or layer.step is None:
        return None
    same = with_fields(layer.grid, clipping=grid.clipping) == grid
    return layer.grid_parameters() if same else None
