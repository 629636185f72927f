"""Dynamic quantization: int8 weights once, int8 activations on the fly (Jacob et al., 2018; Wu et al., 2020).

Weights are symmetric with one scale an output channel; each row of activations gets its own scale at run time, so no
calibration is needed and a row's result doesn't depend on its neighbours. Sums are exact int32.

What reaches attention has a few channels far larger than the rest, which take the whole range of a row (Dettmers et
al., 2022, section 3). Rounding the activations there too raises the perplexity of SmolLM2 by 2-6 % instead of about
1 %, so by default those layers round their weights only, at the same size and somewhat less speed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from posttrain.core import events
from posttrain.core.errors import Failure
from posttrain.models.surgery import features, replace, select
from posttrain.quantize.linear import Int8Linear, matrix_of
from posttrain.quantize.methods import Quantizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from posttrain.models.language_model import LanguageModel


class Dynamic(Quantizer):
    """Int8 weights, int8 activations with scales found at run time."""

    float_activations: str | list[str] | None = "attention"
    """Layers among the targets that round their weights only, by rules like theirs; null for none."""

    def apply(self, model: LanguageModel, calibration: Sequence[Sequence[int]] | None) -> None:
        """Replace every target by an `Int8Linear` holding its rounded weights.

        Raises:
            BadRequest: See `Quantizer.chosen`; the network is unchanged then.
            Failure: If a layer has weights that are no numbers.
        """
        layers = self.chosen(model.network)
        floating = self._floating(model.network)
        with events.task("Quantize", total=len(layers), unit="layers") as progress:
            for name, layer in progress.over(layers.items()):
                replace(model.network, name, _quantized(name, layer, dynamic=name not in floating))

    def prepare(self, network: PreTrainedModel) -> None:
        """Put empty `Int8Linear` layers in place."""
        layers, floating = self.chosen(network), self._floating(network)
        for name, layer in layers.items():
            replace(network, name, _empty(layer, dynamic=name not in floating))

    def _floating(self, network: PreTrainedModel) -> set[str]:
        return set(select(network, self.float_activations)) if self.float_activations else set()


def _quantized(name: str, layer: nn.Module, dynamic: bool) -> Int8Linear:
    quantized = _empty(layer, dynamic)
    matrix = matrix_of(layer)
    scale = (matrix.abs().amax(1) / 127).clamp_min(torch.finfo(torch.float32).tiny)  # a row of zeros stays zero
    if not scale.isfinite().all():
        raise Failure(f"{name} has weights that are not numbers.", "Check the model.")
    quantized.weight.copy_((matrix / scale[:, None]).round().clamp(-127, 127))
    quantized.scale.copy_(scale)
    if quantized.bias is not None and isinstance(layer.bias, torch.Tensor):
        quantized.bias.copy_(layer.bias.detach())
    return quantized.to(matrix.device).train(layer.training)


def _empty(layer: nn.Module, dynamic: bool) -> Int8Linear:
    inputs, outputs = features(layer)
    return Int8Linear(inputs, outputs, layer.bias is not None, dynamic)
