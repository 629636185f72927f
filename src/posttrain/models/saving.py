"""Writing a model to a folder that `sources.local` reads back: network, tokenizer, card.

The layout is Hugging Face's, so that every other tool reads plain networks too. A card with the key `surgery` says that
the tensors are the network's state as it is; the list names the operations that replaced modules and is empty for a
plain network. Networks with tensors of three dimensions and more (experts, convolutions) are left to transformers,
which renames and transposes some of them between file and memory.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from posttrain.core import files
from posttrain.core.errors import BadRequest
from posttrain.models.language_model import CARD_FILE, LanguageModel

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def save(model: LanguageModel, folder: Path | str) -> None:
    """Write network, tokenizer and card, atomically: `folder` is replaced as a whole or not at all.

    Tied tensors are written once. The folder may be the one the model was loaded from.

    Args:
        model: The model. Its adapters must be merged: an adapter alone is saved by `Adapter.save`.
        folder: Where to.

    Raises:
        BadRequest: If modules were added or replaced and the card's `surgery` doesn't say so.
        Failure: If the disk is full or the folder can't be written.
    """
    folder = Path(folder)
    files.remove_leftovers(folder.parent)
    with files.atomic_folder(folder) as temporary:
        write(model, temporary)


def write(model: LanguageModel, folder: Path) -> None:
    """What `save` writes, into a folder that exists; for callers that make the folder appear themselves."""
    network, card = model.network, dict(model.card)
    as_it_is = bool(card.get("surgery")) or all(tensor.dim() <= 2 for tensor in network.parameters())
    card.pop("surgery", None)
    if not model.card.get("surgery"):
        _check_unchanged(network)
    with full_disk_as_os_error():
        if as_it_is:
            card["surgery"] = model.card.get("surgery", [])
            _write_as_it_is(network, folder)
        else:
            network.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    files.write_json(folder / CARD_FILE, card)
    for file in folder.iterdir():
        file.chmod(0o644)  # safetensors makes its files private to the user


def _check_unchanged(network: PreTrainedModel) -> None:
    """Refuse what could be written but not read back: names that a fresh network of this class doesn't have."""
    import torch

    with torch.device("meta"):
        fresh = type(network)(network.config).state_dict()
    changed = sorted(set(network.state_dict()) ^ set(fresh))
    if changed:
        raise BadRequest(
            f"The network can't be saved as a plain {type(network).__name__}: '{changed[0]}' was added or replaced.",
            "Merge its adapter, or save the adapter alone.",
        )


def _write_as_it_is(network: PreTrainedModel, folder: Path) -> None:
    from safetensors.torch import save_file

    save_file(_written_tensors(network), folder / "model.safetensors", metadata={"format": "pt"})
    network.config.architectures = [type(network).__name__]
    network.config.dtype = network.dtype
    network.config.save_pretrained(folder)
    if network.can_generate():
        network.generation_config.save_pretrained(folder)


def _written_tensors(network: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The state of a network on the CPU, each tensor under the first of its names, none sharing memory with another."""
    tied = set()
    seen: set[int] = set()
    for name, parameter in network.named_parameters(remove_duplicate=False):
        if id(parameter) in seen:
            tied.add(name)
        seen.add(id(parameter))
    state = {name: tensor.detach().cpu() for name, tensor in network.state_dict().items() if name not in tied}
    return {
        # A view of a larger storage is copied out of it; safetensors refuses shared memory.
        name: tensor.clone() if tensor.untyped_storage().nbytes() > tensor.nbytes else tensor.contiguous()
        for name, tensor in state.items()
    }


@contextmanager
def full_disk_as_os_error() -> Iterator[None]:
    """safetensors reports a full disk in words only; give it the form that `files` explains to the user."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        if "os error 28" in str(error):
            raise OSError(errno.ENOSPC, str(error)) from error
        raise
