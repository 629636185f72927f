"""The contract of a quantizer: it replaces modules by smaller ones and can do so again on an empty network."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field
from torch import nn

from posttrain.core import catalog
from posttrain.core.errors import BadRequest
from posttrain.core.settings import Settings
from posttrain.models.surgery import select

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from posttrain.models.language_model import LanguageModel


class Quantizer(Settings):
    """A way to quantize a network; what it leaves still is an ordinary tree of modules."""

    needs_calibration: ClassVar[bool] = False

    final: ClassVar[bool] = True
    """Whether the outcome is what is used: smaller, and meant to be faster. What only prepares training isn't."""

    targets: str | list[str] = Field("all-linear")
    """Which modules: attention, mlp, all-linear, module names, or a regular expression; one or a list."""

    def quantize(self, model: LanguageModel, calibration: Sequence[Sequence[int]] | None = None) -> None:
        """Quantize in place, and note it in the card so that the model can be saved and loaded.

        Args:
            model: The model; its network and card are changed.
            calibration: Token ids of the calibration texts, for methods that need them.
        """
        done = self.apply(model, calibration) or self
        model.card = {**model.card, "surgery": [*model.card.get("surgery", []), {"quantize": catalog.dump(done)}]}

    @abstractmethod
    def apply(self, model: LanguageModel, calibration: Sequence[Sequence[int]] | None) -> Quantizer | None:
        """Replace the network's modules by quantized ones.

        Returns:
            The method with all that was decided by looking at the data, from which `prepare` makes the same modules
            again; None where nothing was.
        """

    @abstractmethod
    def prepare(self, network: PreTrainedModel) -> None:
        """Give an unquantized network the modules it has after `quantize`, with empty tensors, ready for loading."""

    def chosen(self, network: PreTrainedModel) -> dict[str, nn.Module]:
        """The layers that `targets` names, by dotted name; the network isn't touched.

        Raises:
            BadRequest: If a rule names nothing, or something that isn't a plain floating-point linear layer.
        """
        layers = select(network, self.targets)
        for name, layer in layers.items():
            kind = type(layer).__name__
            if isinstance(layer, nn.Embedding):
                raise BadRequest(f"{name} is an embedding; only linear layers are quantized.", "Change `targets`.")
            if not layer.weight.dtype.is_floating_point or not isinstance(layer.weight, nn.Parameter):
                raise BadRequest(f"{name} is quantized already ({kind}).", "Quantize the original model.")
            if not (isinstance(layer, nn.Linear) or kind == "Conv1D"):
                raise BadRequest(
                    f"{name} is no plain linear layer ({kind}).", "If it carries an adapter, merge that first."
                )
        return layers
