"""Quantization-aware training: layers that round their weights in every pass, but keep and train unrounded ones.

The surgery of Jacob et al. (2018, section 3). The ordinary loop then trains any way it likes, whole or by an adapter,
and at the end a quantizer with the same grid gives exactly the network that was trained. Rounding passes gradients on
unchanged (straight-through, Bengio et al., 2013). With `learned_scales` the steps of the grid are parameters too (LSQ,
Esser et al., 2020).

Low-rank matrices beside such a layer are added to its weights before these are rounded, so merging them changes
nothing (Bondarenko et al., 2024, "Low-Rank Quantization-Aware Training for LLMs").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace as with_fields
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from posttrain.core.errors import BadRequest
from posttrain.models.surgery import replace
from posttrain.quantize.fake_linear import FakeQuantizedLinear
from posttrain.quantize.weight_only import WeightOnly

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from posttrain.models.language_model import LanguageModel


class Qat(WeightOnly):
    """Train with rounded weights; quantize for good afterwards, with the same bits, groups and symmetry."""

    final: ClassVar[bool] = False

    learned_scales: bool = False
    """Train the scales, beginning where the squared error is least; else they follow the weights' range."""

    activation_bits: int | None = Field(None, ge=2, le=8)
    """Round the layers' inputs too, with one scale a row, as for integer arithmetic; null leaves them."""

    def apply(self, model: LanguageModel, calibration: Sequence[Sequence[int]] | None) -> None:
        """Replace every target by a layer that rounds; its parameters stay the network's.

        Raises:
            BadRequest: See `Quantizer.chosen`; the network is unchanged then.
        """
        self.prepare(model.network)

    def prepare(self, network: PreTrainedModel) -> None:
        """Put the layers in place, with the weights that are there."""
        for name, layer in self.chosen(network).items():
            grid = with_fields(self.grid, clipping=self.clipping or self.learned_scales)
            replace(network, name, FakeQuantizedLinear(layer, grid, self.activation_bits, self.learned_scales))

    def chosen(self, network: PreTrainedModel) -> dict[str, nn.Module]:
        """See `Quantizer.chosen`; a layer that rounds already is refused too."""
        layers = super().chosen(network)
        for name, layer in layers.items():
            if isinstance(layer, FakeQuantizedLinear):
                raise BadRequest(f"{name} is quantized already, for training.", "Quantize the original model.")
        return layers
