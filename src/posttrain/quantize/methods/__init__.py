"""The contract of a quantizer: it replaces modules by smaller ones and can do so again on an empty network."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from posttrain.core.settings import Settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from posttrain.models.language_model import LanguageModel


class Quantizer(Settings):
    """A way to quantize a network; what it leaves still is an ordinary tree of modules."""

    needs_calibration: ClassVar[bool] = False

    targets: str | list[str] = Field("all-linear")
    """Which modules: attention, mlp, all-linear, module names, or a regular expression; one or a list."""

    @abstractmethod
    def quantize(self, model: LanguageModel, calibration: Sequence[Sequence[int]] | None = None) -> None:
        """Quantize in place.

        Args:
            model: The model; its network is changed.
            calibration: Token ids of the calibration texts, for methods that need them.
        """

    @abstractmethod
    def prepare(self, network: PreTrainedModel) -> None:
        """Give an unquantized network the modules it has after `quantize`, with empty tensors, ready for loading."""
