"""Statistics of activations: the calibration sequences go once through the network, and something watches the inputs of
chosen layers.

All layers are watched in the same pass, as they are before anything is quantized. Methods that must see each layer
behind its quantized predecessors calibrate block by block instead.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from posttrain.core import events
from posttrain.core.errors import BadRequest, Failure
from posttrain.quantize.linear import scale_and_shift
from posttrain.quantize.observers import Observation, Observer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TRIAL = 16  # tokens that show which layers share an input


def watch_inputs(
    network: PreTrainedModel,
    names: Collection[str],
    sequences: Sequence[Sequence[int]],
    watch: Callable[[str, Tensor], None],
) -> None:
    """Call `watch` with what layers get, for each sequence of token ids.

    Args:
        network: It computes as it always does; nothing in it changes.
        names: Dotted names of the layers.
        sequences: Token ids; each is a pass of its own, without padding.
        watch: Gets a layer's name and its input [tokens, inputs], which it must not change or keep.

    Raises:
        BadRequest: If there are no sequences.
        Failure: If a layer gets a number that is infinite or undefined, or gets nothing at all.
    """
    if not any(len(sequence) for sequence in sequences):
        raise BadRequest("There are no calibration texts, or they are shorter than one sequence.", "Give more text.")
    seen: set[str] = set()

    def before(name: str, _: nn.Module, arguments: tuple[Any, ...]) -> None:
        x = arguments[0].detach().reshape(-1, arguments[0].shape[-1])
        if len(x) == 0:  # an expert that no token was sent to
            return
        if not x.isfinite().all():
            raise Failure(f"{name} gets activations that are not numbers.", "Check the model.")
        seen.add(name)
        watch(name, x)

    whole_head = any(_is_head(network, name) for name in names)
    with (
        _hooked(network, names, before),
        torch.no_grad(),
        events.task("Calibrate", total=len(sequences), unit="sequences") as progress,
    ):
        for sequence in progress.over(sequences):
            _forward(network, sequence, whole_head)
    if missed := [name for name in names if name not in seen]:
        raise Failure(
            f"{missed[0]} got no input from the calibration texts.", "Give more of them, or leave it out of `targets`."
        )


def observe_inputs(
    network: PreTrainedModel, names: Collection[str], sequences: Sequence[Sequence[int]], observer: Observer
) -> dict[str, Observation]:
    """What an observer sees of the inputs of each layer; arguments and errors are those of `watch_inputs`.

    Layers that get the same input (query, key and value) share what is seen.
    """
    groups = shared_inputs(network, names, sequences)
    found = {group[0]: observer.start() for group in groups}
    watch_inputs(network, list(found), sequences, lambda name, x: found[name].see(x))
    return {name: found[group[0]] for group in groups for name in group}


def shared_inputs(
    network: PreTrainedModel, names: Collection[str], sequences: Sequence[Sequence[int]]
) -> list[tuple[str, ...]]:
    """Which layers get the very same tensor, each group with its first one in front; seen on a few tokens."""
    groups: list[tuple[Tensor, list[str]]] = []  # tensors kept alive, so that none is taken for another

    def before(name: str, _: nn.Module, arguments: tuple[Any, ...]) -> None:
        group = next((group for x, group in groups if x is arguments[0]), None)
        if group is None:
            groups.append((arguments[0], [name]))
        elif name not in group:
            group.append(name)

    with _hooked(network, names, before), torch.no_grad():
        for sequence in [sequence for sequence in sequences if len(sequence)][:1]:
            _forward(network, sequence[:_TRIAL], whole_head=True)
    grouped: dict[str, tuple[str, ...]] = {}
    for _, group in groups:
        grouped |= {name: tuple(group) for name in group if name not in grouped}
    alone = [(name,) for name in names if name not in grouped]  # an expert that no token was sent to
    return [
        *dict.fromkeys(tuple(name for name in group if grouped[name] == group) for group in grouped.values()),
        *alone,
    ]


def rounding_noise(
    network: PreTrainedModel,
    ranges: Mapping[str, tuple[float, float]],
    sequences: Sequence[Sequence[int]],
    symmetric: bool,
) -> dict[str, float]:
    """How much of the inputs of layers is lost when they are rounded to int8 with fixed ranges.

    Args:
        network: In floating point.
        ranges: The range of each layer's inputs.
        sequences: Token ids.
        symmetric: Whether the ranges are.

    Returns:
        For each layer ||x - Q(x)||^2 / ||x||^2, the mean over tokens: each counts alike, however large it is.
    """
    grids = {name: scale_and_shift(*found, symmetric) for name, found in ranges.items()}
    losses: dict[str, list[Tensor]] = {name: [] for name in ranges}

    def watch(name: str, x: Tensor) -> None:
        scale, shift = (value.to(x.device) for value in grids[name])
        x = x.float()
        error = ((x + shift) / scale).round_().clamp_(-127, 127).mul_(scale).sub_(shift).sub_(x)
        losses[name].append(error.square().sum(1) / x.square().sum(1).clamp_min(torch.finfo(torch.float32).tiny))

    watch_inputs(network, list(ranges), sequences, watch)
    return {name: float(torch.cat(parts).mean()) for name, parts in losses.items()}


def largest_inputs(
    network: PreTrainedModel, names: Collection[str], sequences: Sequence[Sequence[int]]
) -> dict[str, Tensor]:
    """The largest absolute value of each input channel of each layer, float32 [inputs]; errors as `watch_inputs`."""
    found: dict[str, Tensor] = {}

    def watch(name: str, x: Tensor) -> None:
        largest = x.abs().amax(0).float()
        found[name] = torch.maximum(found[name], largest) if name in found else largest

    watch_inputs(network, names, sequences, watch)
    return found


@contextmanager
def _hooked(network: PreTrainedModel, names: Collection[str], before: Callable[..., None]) -> Iterator[None]:
    """Call `before` with its name, itself and its arguments whenever one of these layers is about to run."""
    handles = [network.get_submodule(name).register_forward_pre_hook(partial(before, name)) for name in names]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _forward(network: PreTrainedModel, sequence: Sequence[int], whole_head: bool) -> None:
    """One pass; the vocabulary projection is spared all positions but the last, unless it is watched itself."""
    ids = torch.tensor([list(sequence)], dtype=torch.long, device=network.device)
    accepted = inspect.signature(network.forward).parameters
    arguments: dict[str, Any] = {"use_cache": False} if "use_cache" in accepted else {}
    if not whole_head and "logits_to_keep" in accepted:
        arguments["logits_to_keep"] = 1
    network(input_ids=ids, **arguments)


def _is_head(network: PreTrainedModel, name: str) -> bool:
    head = network.get_output_embeddings()
    return head is not None and network.get_submodule(name) in set(head.modules())
