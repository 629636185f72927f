"""Scalar heads on a network's last hidden states: rewards and values.

A head is an ordinary named module of the network, so that the loop trains and checkpoints it like any other parameter.
It starts at zero: every reward or value is 0 before training. It lies in a folder of its own beside a saved model,
``NAME/model.safetensors``, and says there whether it was trained on texts in the chat template: what was learned from
these says nothing of the same texts without it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from posttrain.core.errors import BadRequest, Failure

if TYPE_CHECKING:
    from transformers import PreTrainedModel

REWARD_HEAD = "reward_head"

_CHAT = "chat"


class ScalarHead(nn.Linear):
    """A linear map from hidden states to one number, in float32.

    Attributes:
        chat: Whether it was trained on texts in the chat template; None if that isn't known. Saved with it.
    """

    def __init__(self, hidden_size: int, device: torch.device) -> None:
        super().__init__(hidden_size, 1, device=device, dtype=torch.float32)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)
        self.chat: bool | None = None

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
    told = {} if head.chat is None else {_CHAT: str(head.chat).lower()}
    tensors = {key: value.detach().cpu().contiguous() for key, value in head.state_dict().items()}
    save_file(tensors, folder / name / "model.safetensors", metadata={**told, "format": "pt"})


def load(network: PreTrainedModel, folder: Path, name: str) -> ScalarHead:
    """Attach the head that lies beside a saved model, frozen.

    Raises:
        BadRequest: If there is none.
        Failure: If it doesn't fit the network.
    """
    from safetensors import safe_open

    path = folder / name / "model.safetensors"
    if not path.exists():
        raise BadRequest(f"{folder} has no {name}.", "Train one with `posttrain align MODEL --objective reward_model`.")
    head = attach(network, name).requires_grad_(False)
    with safe_open(path, framework="pt") as stored:
        tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118
        told = (stored.metadata() or {}).get(_CHAT)
    if {key: value.shape for key, value in tensors.items()} != {k: v.shape for k, v in head.state_dict().items()}:
        raise Failure(f"The {name} in {folder} doesn't fit {type(network).__name__}.", "Train it again.")
    head.load_state_dict(tensors)
    head.chat = None if told is None else told == "true"
    return head
