"""GPTQ: each weight's rounding error is made up for by the weights that aren't rounded yet (Frantar et al., 2023).

The mathematics is `column_rounding`'s. Calibration texts go up block by block, so that each layer is fitted to what the
quantized layers below make of them; layers with the same input share its second moments and are rounded together. By
default inputs are taken in the order of their importance ("act-order") with scales found beforehand, so that nothing
need be reordered at run time. An input that the texts never excite is rounded to nearest; the authors' code sets its
weights to zero, which costs more on other texts.

Left out: quantizing activations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from posttrain.core import events
from posttrain.core.errors import BadRequest, Failure
from posttrain.models.surgery import features, replace
from posttrain.quantize.calibration import Stage, stages
from posttrain.quantize.column_rounding import round_columns
from posttrain.quantize.grouped_linear import grouped
from posttrain.quantize.linear import matrix_of
from posttrain.quantize.weight_only import WeightOnly

if TYPE_CHECKING:
    from posttrain.models.language_model import LanguageModel


class Gptq(WeightOnly):
    """Weights of few bits, rounded so that the layers' outputs on calibration texts change least."""

    needs_calibration: ClassVar[bool] = True

    damping: float = Field(0.01, gt=0, le=1)
    """Share of the mean second moment added to each input's: more is safer and makes up for less."""

    act_order: bool = True
    """Round inputs that matter most first."""

    static_groups: bool = True
    """With act_order: neighbouring inputs share a scale, found beforehand; otherwise those of like importance do, which
    needs their order at run time."""

    true_sequential: bool = False
    """Within a block, fit each layer to what the quantized ones before it put out, and not only to quantized blocks;
    takes about twice the time."""

    block_size: int = Field(128, ge=1)
    """Inputs whose corrections are applied to the rest at once; changes speed only."""

    tokens_per_pass: int = Field(2048, ge=1)
    """Calibration tokens run through a block at once; changes speed and memory only."""

    @property
    def ordered(self) -> bool:
        """Whether the layers keep their columns in an order of their own."""
        return self.act_order and not self.static_groups

    def apply(self, model: LanguageModel, calibration: Sequence[Sequence[int]] | None) -> None:
        """Replace every target by a `GroupedLinear`, block by block.

        Raises:
            BadRequest: See `Quantizer.chosen` and `calibration.stages`, or there are no calibration texts; the network
                is unchanged then.
            Failure: If weights or activations are no numbers; blocks done by then stay quantized.
        """
        layers = self.chosen(model.network)
        if calibration is None:
            raise BadRequest("This method needs calibration texts.", "Give `calibration`.")
        for name, layer in layers.items():
            if not matrix_of(layer).isfinite().all():
                raise Failure(f"{name} has weights that are not numbers.", "Check the model.")
        with events.task("Quantize", total=len(layers), unit="layers") as progress:
            for stage in stages(model.network, calibration, layers, self.tokens_per_pass):
                for together in stage.groups() if self.true_sequential else [None]:
                    for names, moments in _second_moments(stage, together).items():
                        self._round(model, stage, names, moments)
                        progress.advance(len(names))

    def _round(self, model: LanguageModel, stage: Stage, names: tuple[str, ...], moments: Tensor) -> None:
        """Round layers with the same input together and put the outcome in their places."""
        matrices = [matrix_of(stage.layers[name]) for name in names]
        rounded = round_columns(
            torch.cat(matrices),
            moments,
            self.grid,
            damping=self.damping,
            by_importance=self.act_order,
            static_groups=self.static_groups,
            block_size=self.block_size,
        )
        sizes = [len(matrix) for matrix in matrices]
        parts = (rounded.codes.split(sizes), rounded.scale.split(sizes), rounded.zero_point.split(sizes))
        for name, codes, scale, zero_point in zip(names, *parts):
            quantized = grouped(name, stage.layers[name], self.grid, codes, scale, zero_point, rounded.order)
            replace(model.network, name, quantized)


def _second_moments(stage: Stage, only: Sequence[str] | None) -> dict[tuple[str, ...], Tensor]:
    """2/N X X^T of every distinct input, float32 [inputs, inputs], by the names of the layers that get it.

    A layer that no token reaches has zeros.

    Raises:
        Failure: If an input has entries that are no numbers.
    """
    sums: dict[tuple[str, ...], Tensor] = {}
    tokens: dict[tuple[str, ...], int] = {}

    def see(names: tuple[str, ...], x: Tensor) -> None:
        if names not in sums:
            sums[names], tokens[names] = x.new_zeros(x.shape[1], x.shape[1], dtype=torch.float32), 0
        x = x.float()
        sums[names].addmm_(x.T, x)
        tokens[names] += len(x)

    stage.observe(see, only)
    found: dict[tuple[str, ...], Tensor] = {}
    for names, total in sums.items():
        if not total.isfinite().all():
            raise Failure(f"{names[0]} gets activations that are not numbers.", "Check the model.")
        found[names] = total.mul_(2 / max(tokens[names], 1))
    reached = {name for names in found for name in names}
    for name, layer in stage.layers.items():
        if name not in reached and (only is None or name in only):
            inputs, _ = features(layer)
            found[name,] = torch.zeros(inputs, inputs, device=matrix_of(layer).device)
    return found
