"""BitFit: train only the bias terms, and a task's head (Ben Zaken et al., 2022)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from posttrain.adapt import InPlaceAdapter

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


class Bitfit(InPlaceAdapter):
    """Freeze every weight but a task's head and leave the biases free."""

    default_learning_rate: ClassVar[float] = 1e-3

    include_norms: bool = True
    """Also train the scales of normalisations: architectures without biases (Llama) have nothing else of the kind."""

    def selects(self, network: PreTrainedModel, name: str, parameter: nn.Parameter) -> bool:
        """Biases, and norms' vectors if wanted."""
        return name.endswith("bias") or (self.include_norms and parameter.ndim == 1)
