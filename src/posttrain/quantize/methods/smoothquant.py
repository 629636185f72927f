"""SmoothQuant: move the outliers of activations into the weights, then quantize both (Xiao et al., 2023, equation 4).

Each input channel j of a layer is divided by s_j = max|X_j|^alpha / max|W_j|^(1 - alpha) and its weights multiplied by
it: the product is the same, and both sides are easier to round. The division costs nothing, as it goes into what makes
the channels: the norm in front (query, key, value; gate, up), the value projection (in front of attention's output),
the up projection (in front of the down projection). Layers that read one source share the factors, so X and W are
maxima over all of them. In floating point the network computes what it did.

What quantizes the smoothed network is any other method. The norms keep their share of the factors when saved.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field

from posttrain.core.catalog import block
from posttrain.core.errors import BadRequest
from posttrain.quantize.channel_scales import Place, find_places, move
from posttrain.quantize.linear import matrix_of
from posttrain.quantize.methods import Quantizer
from posttrain.quantize.statistics import largest_inputs

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from posttrain.models.language_model import LanguageModel

_TOKENS = 32  # that the network is tried on before weights are touched


class SmoothQuant(Quantizer):
    """Smooth the activations, then quantize by another method."""

    needs_calibration: ClassVar[bool] = True

    alpha: float = Field(0.5, ge=0, le=1)
    """How much of the difficulty moves from the activations to the weights: 0 none, 1 all."""

    then: block("quantize") = Field(  # type: ignore[valid-type]
        default_factory=lambda: {"dynamic": {"float_activations": None}}
    )
    """What quantizes the smoothed network, as in {static: {}}; its targets are those above."""

    def apply(self, model: LanguageModel, calibration: Sequence[Sequence[int]] | None) -> SmoothQuant:
        """Smooth and quantize.

        Returns:
            The settings with what the other method decided.

        Raises:
            BadRequest: See `Quantizer.chosen`; or without calibration texts, or where the network has no place for the
                factors. The network is unchanged then.
            Failure: If weights or activations are no numbers.
        """
        if not calibration or not any(calibration):
            raise BadRequest("Smoothing needs calibration texts.", "Give `calibration`.")
        self.smooth(model, calibration)
        quantizer = self._quantizer()
        return self.model_copy(update={"then": quantizer.apply(model, calibration) or quantizer})

    def smooth(self, model: LanguageModel, calibration: Sequence[Sequence[int]]) -> None:
        """Move the outliers and quantize nothing: the network still computes what it did.

        Arguments and errors are those of `apply`.
        """
        network = model.network
        longest = max(calibration, key=len)[:_TOKENS]
        trial = torch.tensor([list(longest)], dtype=torch.long, device=model.device)
        places = find_places(network, self.chosen(network), trial)
        largest = largest_inputs(network, [place.readers[0] for place in places], calibration)
        for place in places:
            move(network, place, self._factors(network, place, largest[place.readers[0]]))

    def prepare(self, network: PreTrainedModel) -> None:
        """What the other method prepares; the factors lie in the saved weights."""
        self._quantizer().prepare(network)

    def _quantizer(self) -> Quantizer:
        quantizer: Quantizer = self.then.model_copy(update={"targets": self.targets})
        return quantizer

    def _factors(self, network: PreTrainedModel, place: Place, inputs: Tensor) -> Tensor:
        """s of equation 4: [channels of the source]; 1 where a channel or its weights are zero."""
        weights = torch.stack([matrix_of(network.get_submodule(name)).abs().amax(0) for name in place.readers]).amax(0)
        x, w = place.shared(inputs), place.shared(weights)
        factors = x**self.alpha / w ** (1 - self.alpha)
        return torch.where((x > 0) & (w > 0) & factors.isfinite() & (factors > 0), factors, 1.0)
