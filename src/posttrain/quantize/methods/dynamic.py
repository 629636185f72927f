"""Dynamic quantization: int8 weights once, int8 activations on the fly (Jacob et al., 2018, section 2; Wu et al., 2020).

Weights are symmetric with one scale an output channel; each row of activations gets its own scale at run time, so no
calibration is needed and a row's result doesn't depend on its neighbours. Sums are exact int32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from posttrain.core import events
from posttrain.core.errors import BadRequest
from posttrain.models.surgery import features, replace, select
from posttrain.quantize.linear import Int8Linear
from posttrain.quantize.methods import Quantizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from posttrain.models.language_model import LanguageModel


class Dynamic(Quantizer):
    """Int8 weights, int8 activations with scales found at run time."""

    def quantize(self, model: LanguageModel, calibration: Sequence[Sequence[int]] | None = None) -> None:
        """Replace every target by an `Int8Linear` holding its rounded weights."""
        chosen = select(model.network, self.targets)
        with events.task("Quantize", total=len(chosen), unit="layers") as progress:
            for name, module in progress.over(chosen.items()):
                layer = self._empty(name, module)
                matrix = module.weight.detach().float()
                matrix = matrix.T if type(module).__name__ == "Conv1D" else matrix  # [outputs, inputs]
                scale = (matrix.abs().amax(1) / 127).clamp_min(torch.finfo(torch.float32).tiny)
                layer.weight.copy_((matrix / scale[:, None]).round().clamp(-127, 127))
                layer.scale.copy_(scale)
                if layer.bias is not None:
                    layer.bias.copy_(module.bias.detach())
                replace(model.network, name, layer.to(module.weight.device))

    def prepare(self, network: PreTrainedModel) -> None:
        """Put empty `Int8Linear` layers in place."""
        for name, module in select(network, self.targets).items():
            replace(network, name, self._empty(name, module))

    def _empty(self, name: str, module: nn.Module) -> Int8Linear:
        if not isinstance(module.weight, nn.Parameter) or not module.weight.dtype.is_floating_point:
            raise BadRequest(f"{name} is not a floating-point layer (already quantized?).", "Quantize the original model.")
        inputs, outputs = features(module)
        return Int8Linear(inputs, outputs, getattr(module, "bias", None) is not None, dynamic=True)
