"""Scalar heads on a network's last hidden states: rewards and values.

A head is an ordinary named module of the network, so that the loop trains and checkpoints it like any other parameter.
It starts at zero: every reward or value is 0 before training. It lies in a folder of its own beside a saved model,
``NAME/model.safetensors``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from posttrain.core.errors import BadRequest, Failure

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class ScalarHead(nn.Linear):
    """A linear map from hidden states to one number, in float32."""

    def __init__(self, hidden_size: int, device: torch.device) -> None:
        super().__init__(hidden_size, 1, device=device, dtype=torch.float32)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """[..., H] of any floating type -> [...] float32."""
        with torch.autocast(hidden.device.type, enabled=False):
            return super().forward(hidden.float()).squeeze(-1)


def attach(network: PreTrainedModel, name: str) -> ScalarHead:
    """Add a head under `name`; it is trainable whatever else is frozen."""
    head = ScalarHead(network.config.get_text_config().hidden_size, network.device)
    network.add_module(name, head)
    return head


def head_of(network: PreTrainedModel, name: str) -> ScalarHead:
    """The head that `attach` added.

    Raises:
        TypeError: If there is none.
    """
    head = getattr(network, name, None)
    if not isinstance(head, ScalarHead):
        raise TypeError(f"{type(network).__name__} has no head '{name}'")
    return head


def detach(network: PreTrainedModel, name: str) -> ScalarHead:
    """Take a head off the network, which is then of its own class again and can be saved."""
    head = head_of(network, name)
    delattr(network, name)
    return head


def save(head: ScalarHead, folder: Path, name: str) -> None:
    """Write a head beside a saved model."""
    from safetensors.torch import save_file

    (folder / name).mkdir()
    tensors = {key: value.detach().cpu().contiguous() for key, value in head.state_dict().items()}
    save_file(tensors, folder / name / "model.safetensors", metadata={"format": "pt"})


def load(network: PreTrainedModel, folder: Path, name: str) -> None:
    """Attach the head that lies beside a saved model, frozen.

    Raises:
        BadRequest: If there is none.
        Failure: If it doesn't fit the network.
    """
    from safetensors.torch import load_file

    path = folder / name / "model.safetensors"
    if not path.exists():
        raise BadRequest(f"{folder} has no {name}.", "Train one with `posttrain align MODEL --objective reward_model`.")
    head = attach(network, name).requires_grad_(False)
    tensors = load_file(path)
    if {key: value.shape for key, value in tensors.items()} != {k: v.shape for k, v in head.state_dict().items()}:
        raise Failure(f"The {name} in {folder} doesn't fit {type(network).__name__}.", "Train it again.")
    head.load_state_dict(tensors)
