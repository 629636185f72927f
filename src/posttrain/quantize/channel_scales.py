"""Scales of channels that move between neighbouring layers without changing what the network computes.

A factor on each input channel of linear layers can be taken off again where these channels come from, in three places:

- a norm whose output goes into linear layers and nowhere else (query, key, value; gate, up),
- the value projection in front of attention's output projection: attention mixes positions, never channels,
- the up projection of a gated feed-forward block in front of the down projection.

Which layers read a norm is seen by looking on while the network runs. That nothing else reads it, as in networks that
add their residual after the norm, is tested on the network before any weight is touched. Left out: layers behind a
nonlinearity, and query, key and value in one matrix for the second place.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from posttrain.core.errors import BadRequest
from posttrain.models.surgery import features, is_linear

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedModel

_VALUE, _OUTPUT = ("v_proj", "value"), ("o_proj", "out_proj")
_GATE, _UP, _DOWN = "gate_proj", "up_proj", "down_proj"


@dataclass(frozen=True)
class Place:
    """Where factors on channels can be moved.

    Attributes:
        source: Dotted name of the module the channels come from.
        readers: Dotted names of the linear layers that read them.
        channels: [inputs] long: which channel of the source each input of the readers is. Several inputs may share
            one, where a value head serves several query heads.
    """

    source: str
    readers: tuple[str, ...]
    channels: Tensor

    def shared(self, largest: Tensor) -> Tensor:
        """The maximum over the inputs that share a channel: [inputs] -> [channels of the source]."""
        count = int(self.channels.max()) + 1
        return largest.new_zeros(count).scatter_reduce(0, self.channels.to(largest.device), largest, "amax")


def find_places(network: PreTrainedModel, targets: Collection[str], ids: Tensor) -> list[Place]:
    """All places whose linear layers are targets, those inside attention and feed-forward blocks first.

    Args:
        network: It isn't changed.
        targets: Dotted names of the layers that may be scaled.
        ids: [1, T] long, a text to try the network on.

    Raises:
        BadRequest: If there is none, or if factors moved there would change what the network computes.
    """
    chosen = set(targets)
    places = [
        *_inside_attention(network, chosen),
        *_inside_gated(network, chosen),
        *_behind_norms(network, chosen, ids),
    ]
    kind = type(network).__name__
    if not places:
        raise BadRequest(f"{kind} has no layers whose scales could be moved.", "Use another method.")
    if not _unchanged(network, places, ids):
        raise BadRequest(
            f"Moving scales would change what {kind} computes: its norms feed more than linear layers.",
            "Use another method.",
        )
    return places


@torch.no_grad()
def move(network: PreTrainedModel, place: Place, factors: Tensor) -> None:
    """Multiply the readers' input channels by factors, and divide the source's channels by them.

    Args:
        network: Its weights are changed in place.
        place: Where.
        factors: [channels of the source], positive.
    """
    for name in place.readers:
        reader = network.get_submodule(name)
        weight = _weight(reader)
        own = factors[place.channels.to(factors.device)].to(weight.device)  # [inputs]
        scaled = weight.float() * (own[:, None] if _transposed(reader) else own)
        weight.copy_(scaled)
    source = network.get_submodule(place.source)
    if is_linear(source):
        _divide_linear(source, factors)
    else:
        _divide_norm(source, factors)


def _divide_linear(source: nn.Module, factors: Tensor) -> None:
    weight = _weight(source)
    factors = factors.to(weight.device)
    weight.copy_(weight.float() / (factors if _transposed(source) else factors[:, None]))
    if (bias := _bias(source)) is not None:
        bias.copy_(bias.float() / factors)


def _divide_norm(norm: nn.Module, factors: Tensor) -> None:
    weight, offset = _weight(norm), _offset(norm)
    assert offset is not None
    factors = factors.to(weight.device)
    weight.copy_((weight.float() + offset) / factors - offset)
    if (bias := _bias(norm)) is not None:
        bias.copy_(bias.float() / factors)


@torch.no_grad()
def _offset(norm: nn.Module) -> float | None:
    """What a norm adds to its weight before multiplying, seen by trying: 0, or 1 as Gemma's; None for all others."""
    weight, bias = _weight(norm), _bias(norm)
    before = weight.clone()
    probe = torch.randn(2, len(weight), generator=torch.Generator().manual_seed(0)).to(weight.device, weight.dtype)
    added = 0.0 if bias is None else bias.float()
    doubled = 2 * (norm(probe).float() - added)
    tolerance = 64 * torch.finfo(weight.dtype).eps
    try:
        for offset in (0.0, 1.0):
            weight.copy_(2 * (before.float() + offset) - offset)
            if torch.allclose(norm(probe).float() - added, doubled, rtol=tolerance, atol=tolerance):
                return offset
    finally:
        weight.copy_(before)
    return None


def _behind_norms(network: PreTrainedModel, chosen: set[str], ids: Tensor) -> list[Place]:
    """Norms and the linear layers that get their very output."""
    outputs: list[tuple[str, Tensor]] = []  # kept alive while the network runs, so that none is taken for another
    readers: dict[str, list[str]] = {}

    def after(name: str, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
        outputs.append((name, output))

    def before(name: str, _module: nn.Module, inputs: tuple[Any, ...]) -> None:
        for norm, output in outputs:
            if inputs and inputs[0] is output:
                readers.setdefault(norm, []).append(name)

    with _hooks() as handles, torch.no_grad():
        for name, module in network.named_modules():
            if _is_norm(module):
                handles.append(module.register_forward_hook(partial(after, name)))
            elif is_linear(module):
                handles.append(module.register_forward_pre_hook(partial(before, name)))
        network(input_ids=ids)
    places = []
    for name, found in readers.items():
        norm = network.get_submodule(name)
        if set(found) <= chosen and _offset(norm) is not None:
            places.append(Place(name, tuple(found), torch.arange(len(_weight(norm)))))
    return places


def _inside_attention(network: PreTrainedModel, chosen: set[str]) -> list[Place]:
    config = network.config.get_text_config()
    heads = getattr(config, "num_attention_heads", None)
    places = []
    for name, module in network.named_modules():
        children = dict(module.named_children())
        value = next((key for key in _VALUE if key in children), None)
        output = next((key for key in _OUTPUT if key in children), None)
        if value is None or output is None or not {f"{name}.{value}", f"{name}.{output}"} <= chosen:
            continue
        inputs, channels = features(children[output])[0], features(children[value])[1]
        if not heads or inputs % heads or channels % (inputs // heads):
            continue
        width = inputs // heads
        queries = heads // (channels // width)  # heads that one value head serves
        if queries * (channels // width) != heads:
            continue
        index = torch.arange(channels).view(-1, 1, width).expand(-1, queries, width).reshape(-1)
        places.append(Place(f"{name}.{value}", (f"{name}.{output}",), index))
    return places


def _inside_gated(network: PreTrainedModel, chosen: set[str]) -> list[Place]:
    places = []
    for name, module in network.named_modules():
        children = dict(module.named_children())
        if {_GATE, _UP, _DOWN} <= set(children) and {f"{name}.{_UP}", f"{name}.{_DOWN}"} <= chosen:
            width = features(children[_DOWN])[0]
            if features(children[_UP])[1] == width:
                places.append(Place(f"{name}.{_UP}", (f"{name}.{_DOWN}",), torch.arange(width)))
    return places


def _unchanged(network: PreTrainedModel, places: list[Place], ids: Tensor) -> bool:
    """Whether factors of 1 and 2 at all places cancel; such factors are exact, so only summation could round anew."""
    generator = torch.Generator().manual_seed(0)

    def divided(factors: Tensor, _module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        return output / factors.to(output)

    def multiplied(factors: Tensor, _module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (inputs[0] * factors.to(inputs[0]), *inputs[1:])

    with torch.no_grad():
        expected = network(input_ids=ids)[0].float()
        with _hooks() as handles:
            for place in places:
                count = int(place.channels.max()) + 1
                factors = torch.randint(1, 3, (count,), generator=generator).float()
                source = network.get_submodule(place.source)
                handles.append(source.register_forward_hook(partial(divided, factors)))
                for name in place.readers:
                    own = partial(multiplied, factors[place.channels])
                    handles.append(network.get_submodule(name).register_forward_pre_hook(own))
            found = network(input_ids=ids)[0].float()
    return bool((found - expected).norm() <= 1e-3 * expected.norm())


@contextmanager
def _hooks() -> Iterator[list[Any]]:
    """A list of handles that are removed afterwards."""
    handles: list[Any] = []
    try:
        yield handles
    finally:
        for handle in handles:
            handle.remove()


def _is_norm(module: nn.Module) -> bool:
    own = dict(module.named_parameters())
    return "norm" in type(module).__name__.lower() and set(own) in ({"weight"}, {"weight", "bias"})


def _transposed(layer: nn.Module) -> bool:
    return type(layer).__name__ == "Conv1D"


def _bias(module: nn.Module) -> Tensor | None:
    bias = getattr(module, "bias", None)
    return bias if isinstance(bias, Tensor) else None


def _weight(module: nn.Module) -> Tensor:
    assert isinstance(module.weight, Tensor)
    return module.weight
