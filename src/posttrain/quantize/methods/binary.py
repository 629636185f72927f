"""Binary weights: of each weight only its sign is kept, with one scale for a group of them.

W ~ alpha sign(W) with alpha the mean of |W|, which is the scale of least squared error (Rastegari et al., 2016,
"XNOR-Net", equation 6; there alpha is a filter's). With `order` 2 and more, what is left is binarized again and added
(Li et al., 2017, "Performance Guaranteed Network Acceleration via High-Order Residual Quantization", there of the
inputs): weights of so many bits whose values aren't evenly spaced.

Networks are trained to have such weights. Binarized afterwards, a small language model is ruined: the perplexity of
SmolLM2 rises from 26 to above a million with order 1 and 2, and is still hundreds of thousands with 3 and 4, because
its few large weights, which matter most, are far from any mean; guessing blindly has 49,152. So this is for what is
trained further, for parts of a network, and for comparison. Left out: binary activations, and training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from posttrain.core import events
from posttrain.models.surgery import replace
from posttrain.quantize.grouped_linear import check_scale
from posttrain.quantize.linear import matrix_of
from posttrain.quantize.methods import Quantizer
from posttrain.quantize.sign_linear import binarize, empty_signs
from posttrain.quantize.weight_only import GroupSize

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from posttrain.models.language_model import LanguageModel


class Binary(Quantizer):
    """Signs of weights, one bit each."""

    order: int = Field(1, ge=1, le=4)
    """How often what is left is binarized again: so many bits a weight."""

    group_size: GroupSize = 64
    """Neighbouring inputs of an output channel that share a scale; -1 or null for the whole channel."""

    @property
    def bits(self) -> int:
        """Bits a weight, without scales."""
        return self.order

    def apply(self, model: LanguageModel, calibration: Sequence[Sequence[int]] | None) -> None:
        """Replace every target by a `SignLinear` holding its signs.

        Raises:
            BadRequest: See `Quantizer.chosen`; the network is unchanged then.
            Failure: If a layer has weights that are no numbers.
        """
        layers = self.chosen(model.network)
        with events.task("Quantize", total=len(layers), unit="layers") as progress:
            for name, layer in progress.over(layers.items()):
                matrix = matrix_of(layer)
                signs, scale = binarize(matrix, self.group_size, self.order)
                check_scale(name, scale)
                empty = empty_signs(layer, self.group_size, self.order).to(matrix.device)
                empty.fill(signs, scale)
                if empty.bias is not None and layer.bias is not None:
                    empty.bias.copy_(layer.bias.detach())
                replace(model.network, name, empty.train(layer.training))

    def prepare(self, network: PreTrainedModel) -> None:
        """Put empty `SignLinear` layers in place."""
        for name, layer in self.chosen(network).items():
            replace(network, name, empty_signs(layer, self.group_size, self.order))
