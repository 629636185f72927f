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

from posttrain.core import events
from posttrain.models.surgery import replace, select
from posttrain.quantize.linear import empty_int8, fill_int8
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
                empty = empty_int8(layer, dynamic=name not in floating)
                replace(model.network, name, fill_int8(empty, name, layer))

    def prepare(self, network: PreTrainedModel) -> None:
        """Put empty `Int8Linear` layers in place."""
        layers, floating = self.chosen(network), self._floating(network)
        for name, layer in layers.items():
            replace(network, name, empty_int8(layer, dynamic=name not in floating))

    def _floating(self, network: PreTrainedModel) -> set[str]:
        return set(select(network, self.float_activations)) if self.float_activations else set()
