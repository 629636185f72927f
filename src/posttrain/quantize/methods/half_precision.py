"""Half precision: weights in 16 bits, float16 or bfloat16; half the size of float32, and nearly nothing lost.

float16 keeps 11 significant bits of numbers up to 65,504, bfloat16 8 bits of float32's whole range (Kalamkar et al.,
2019, "A Study of BFLOAT16 for Deep Learning Training"). Activations and everything outside the layers stay as they are;
a model that is loaded in a half precision as a whole (`dtype` of a recipe) needs no such step.

Left out: 8-bit floating point.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch

from posttrain.core import events
from posttrain.core.errors import Failure
from posttrain.models.surgery import replace
from posttrain.quantize.half_linear import empty_half
from posttrain.quantize.linear import matrix_of
from posttrain.quantize.methods import Quantizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from posttrain.models.language_model import LanguageModel


class HalfPrecision(Quantizer):
    """Weights in 16 bits."""

    dtype: Literal["float16", "bfloat16"] = "float16"
    """float16 rounds eight times finer, ends at 65,504, and is the faster one for writing a single text; bfloat16 is
    what newer processors multiply fast, so for long prompts and many texts at once."""

    @property
    def bits(self) -> int:
        """Bits a weight."""
        return 16

    def apply(self, model: LanguageModel, calibration: Sequence[Sequence[int]] | None) -> None:
        """Replace every target by a `HalfLinear` holding its rounded weights.

        Raises:
            BadRequest: See `Quantizer.chosen`; the network is unchanged then.
            Failure: If a layer has weights that are no numbers, or too large for the type.
        """
        layers, dtype = self.chosen(model.network), getattr(torch, self.dtype)
        with events.task("Quantize", total=len(layers), unit="layers") as progress:
            for name, layer in progress.over(layers.items()):
                matrix = matrix_of(layer)
                half = empty_half(layer, dtype).to(matrix.device)
                half.weight.copy_(matrix)
                if not half.weight.isfinite().all():
                    raise Failure(f"{name} has weights that are not numbers, or too large for {self.dtype}.")
                if half.bias is not None and isinstance(layer.bias, torch.Tensor):
                    half.bias.copy_(layer.bias.detach())
                replace(model.network, name, half.train(layer.training))

    def prepare(self, network: PreTrainedModel) -> None:
        """Put empty `HalfLinear` layers in place."""
        for name, layer in self.chosen(network).items():
            replace(network, name, empty_half(layer, getattr(torch, self.dtype)))
