"""Static quantization: int8 weights and int8 activations, the latter with a range fixed by calibration.

Weights are symmetric with one scale an output channel, as in `dynamic`; all activations of a layer share one scale that
an observer chose from calibration texts (Jacob et al., 2018; Wu et al., 2020; Nagel et al., 2021, section 3). Nothing
is searched at run time, and what lies beyond the range is clamped. Sums are exact int32.

One scale has to serve every token, and language models have a few that are a thousand times larger than the rest (Sun
et al., 2024, "Massive Activations in Large Language Models"): covered, they leave all others a handful of codes, and
clamped, they change what attention rests on. So layers whose inputs would lose too much round their weights only, at
the same size and somewhat less speed. How much is measured on the calibration texts, token by token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from posttrain.core import events
from posttrain.core.catalog import block
from posttrain.core.errors import BadRequest
from posttrain.models.surgery import replace, select
from posttrain.quantize.linear import Int8Linear, empty_int8, fill_int8
from posttrain.quantize.methods import Quantizer
from posttrain.quantize.statistics import observe_inputs, rounding_noise

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from posttrain.models.language_model import LanguageModel

_JUDGED = 8  # sequences on which the error of rounding is measured


class Static(Quantizer):
    """Int8 weights, int8 activations with ranges found by calibration."""

    needs_calibration: ClassVar[bool] = True

    observer: block("observer") = Field(default_factory=lambda: {"mse": {}})  # type: ignore[valid-type]
    """How ranges are chosen, as in {percentile: {percent: 99.9}}."""

    noise_limit: float | None = Field(0.003, gt=0)
    """Layers whose inputs, rounded, err by more than this share of their squared length keep them in floating point;
    null rounds them all."""

    float_activations: str | list[str] | None = None
    """Layers among the targets that keep theirs in any case, by rules like those of the targets; null for none."""

    def apply(self, model: LanguageModel, calibration: Sequence[Sequence[int]] | None) -> Static:
        """Observe the floating-point network, then replace every target by an `Int8Linear`.

        Returns:
            The settings with the names of the layers whose activations stay in floating point.

        Raises:
            BadRequest: See `Quantizer.chosen`, or there are no calibration texts; the network is unchanged then.
            Failure: If weights or activations are no numbers.
        """
        network, layers = model.network, self.chosen(model.network)
        if calibration is None:
            raise BadRequest("Static ranges need calibration texts.", "Give `calibration`.")
        ranges = self._ranges(network, [name for name in layers if name not in self._floating(network)], calibration)
        with events.task("Quantize", total=len(layers), unit="layers") as progress:
            for name, layer in progress.over(layers.items()):
                quantized = fill_int8(self._empty(layer, name in ranges), name, layer)
                if name in ranges:
                    quantized.fix_range(*ranges[name])
                replace(network, name, quantized)
        floating = [name for name in layers if name not in ranges]
        events.message(f"{len(ranges)} of {len(layers)} layers round their activations.")
        return self.model_copy(update={"float_activations": floating or None, "noise_limit": None})

    def _ranges(
        self, network: PreTrainedModel, names: list[str], calibration: Sequence[Sequence[int]]
    ) -> dict[str, tuple[float, float]]:
        """The ranges of those layers that can do with one."""
        if not names:
            return {}
        seen = observe_inputs(network, names, calibration, self.observer)
        ranges = {name: observation.range(bits=8) for name, observation in seen.items()}
        if self.noise_limit is None:
            return ranges
        noise = rounding_noise(network, ranges, calibration[:_JUDGED], self.observer.symmetric)
        return {name: ranges[name] for name in names if noise[name] <= self.noise_limit}

    def prepare(self, network: PreTrainedModel) -> None:
        """Put empty `Int8Linear` layers in place."""
        layers, floating = self.chosen(network), self._floating(network)
        for name, layer in layers.items():
            replace(network, name, self._empty(layer, name not in floating))

    def _empty(self, layer: nn.Module, rounded: bool) -> Int8Linear:
        return empty_int8(layer, fixed_range=rounded, symmetric=self.observer.symmetric)

    def _floating(self, network: PreTrainedModel) -> set[str]:
        return set(select(network, self.float_activations)) if self.float_activations else set()
