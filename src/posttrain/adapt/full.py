"""Full fine-tuning: every parameter is trained, or all but the lowest layers (Howard and Ruder, 2018)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from posttrain.adapt import InPlaceAdapter

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

_LAYER = re.compile(r"\.(?:layers?|h|blocks?)\.(\d+)\.")


class Full(InPlaceAdapter):
    """Train the network's own weights."""

    default_learning_rate: ClassVar[float] = 2e-5

    freeze_layers: int = Field(0, ge=0)
    """How many of the lowest layers stay as they are; from 1 on the embeddings stay too."""

    keep_base: bool = False
    """Keep a copy of the old weights, for losses that compare with the base. Doubles the memory of the weights."""

    def keeps_base(self) -> bool:
        """As the setting says."""
        return self.keep_base

    def selects(self, network: PreTrainedModel, name: str, parameter: nn.Parameter) -> bool:
        """All, but for frozen layers and, below them, the embeddings."""
        if self.freeze_layers == 0:
            return True
        if found := _LAYER.search(f".{name}"):
            return int(found.group(1)) >= self.freeze_layers
        return parameter is not network.get_input_embeddings().weight and "embed" not in name
