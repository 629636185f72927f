"""Calibration layer by layer: texts go up through a network, and whoever asks changes each block on the way.

Every layer sees what the blocks below, already changed, make of the texts (Frantar et al., 2023, "GPTQ", section 4).
Beside the network itself only the hidden states between two blocks are kept, and one block's work.

Texts are packed into a few large passes and the vocabulary is never projected on. Inputs come as [N, inputs], N being
the tokens of a pass, and layers that get the very same tensor (query, key and value) are told of it together, so that
what is costly is computed once.

Left out: networks with an encoder and a decoder, and networks that do something between their blocks. Statistics of the
network as it is are `statistics`' business.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn

from posttrain.core.errors import BadRequest
from posttrain.models.forward import hidden_states, supports_packing
from posttrain.models.surgery import blocks

if TYPE_CHECKING:
    from transformers import PreTrainedModel

See: TypeAlias = Callable[[tuple[str, ...], Tensor], None]
"""Called with the names of the layers that got an input, and the input, [N, inputs] without gradient."""

_TOKENS_PER_PASS = 2048


@dataclass(frozen=True)
class Stage:
    """A block, or the vocabulary projection, whose turn it is.

    Attributes:
        name: Its dotted name.
        layers: Those of the requested layers that lie in it, by dotted name.
        passes: Run it on the texts, a pass each.
    """

    name: str
    layers: dict[str, nn.Module]
    passes: Sequence[Callable[[], Any]]

    def observe(self, see: See, only: Collection[str] | None = None) -> None:
        """Run all texts through the block as it is now, as far as the last layer asked for.

        Args:
            see: Called for each pass with each distinct input.
            only: Names to watch instead of all `layers`.
        """
        watched = {name: layer for name, layer in self.layers.items() if only is None or name in only}
        for run in self.passes:
            self._watch(run, watched, see)

    def groups(self) -> list[tuple[str, ...]]:
        """The layers in the order the texts reach them, those with the same input together; from the first pass."""
        found: list[tuple[str, ...]] = []
        self._watch(self.passes[0], self.layers, lambda names, _: found.append(names))
        reached = {name for names in found for name in names}
        return found + [(name,) for name in self.layers if name not in reached]

    @staticmethod
    def _watch(run: Callable[[], Any], layers: Mapping[str, nn.Module], see: See) -> None:
        with torch.no_grad(), _Watch(layers, see):
            run()


def stages(
    network: PreTrainedModel,
    sequences: Sequence[Sequence[int]],
    layers: Mapping[str, nn.Module],
    tokens_per_pass: int = _TOKENS_PER_PASS,
) -> Iterator[Stage]:
    """Go through the network block by block, the vocabulary projection last; see the module's docstring.

    Between two stages the caller may replace the layers of the first; the texts go on through what stands there then.
    Blocks without a requested layer are passed through silently, those above the last requested layer not at all.

    Args:
        network: The network; in evaluation mode until the iteration ends.
        sequences: Token ids, each sequence by itself.
        layers: Modules inside the blocks, or the vocabulary projection, by dotted name.
        tokens_per_pass: Tokens run at once; decides memory and speed only.

    Raises:
        BadRequest: If there are no sequences, a layer isn't in a block, or the network has no single stack of blocks
            with nothing between them.
    """
    names = list(blocks(network))
    if len({name.rpartition(".")[0] for name in names}) > 1:
        raise BadRequest(
            f"{type(network).__name__} has two stacks of blocks; calibration goes through one.",
            "Choose a method that needs no calibration.",
        )
    modules = [network.get_submodule(name) for name in names]
    inside = {name: {k: m for k, m in layers.items() if k.startswith(f"{name}.")} for name in names}
    head = {name: layer for name, layer in layers.items() if layer is network.get_output_embeddings()}
    if outside := sorted(set(layers) - set(head) - {name for each in inside.values() for name in each}):
        raise BadRequest(f"{outside[0]} lies in no block, so calibration doesn't reach it.", "Leave it out of targets.")
    last = len(names) if head else max((i for i, name in enumerate(names) if inside[name]), default=-1) + 1
    passes = _passes(network, sequences, tokens_per_pass)
    with _evaluating(network):
        with torch.no_grad():
            records = [_Record(network, modules, *each) for each in passes]
        for number in range(last):
            if inside[names[number]]:
                runs = [_running(modules[number], record, number) for record in records]
                yield Stage(names[number], inside[names[number]], runs)
            if number + 1 < last or head:
                with torch.no_grad():
                    for record in records:
                        record.advance(modules[number], number)
        for name, layer in head.items():
            yield Stage(name, {name: layer}, [_projecting(network, modules, name, record) for record in records])


class _Enough(Exception):
    """All watched layers of a pass have been reached."""


class _Watch:
    """Hooks on layers that show each distinct input once, with all layers that got it one after the other.

    The pass ends when all layers have been reached. The last input is held until another one comes, so its memory can't
    be given to that one meanwhile: two inputs at the same address are the same input.
    """

    def __init__(self, layers: Mapping[str, nn.Module], see: See) -> None:
        self._layers, self._see = layers, see
        self._waiting = set(layers)
        self._names: list[str] = []
        self._input: Tensor | None = None
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> None:
        for name, layer in self._layers.items():
            self._hooks.append(layer.register_forward_pre_hook(self._hook(name)))

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> bool:
        for hook in self._hooks:
            hook.remove()
        if kind is None or kind is _Enough:
            self._show()
        return kind is _Enough

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def arrived(_: nn.Module, arguments: tuple[Any, ...]) -> None:
            x: Tensor = arguments[0]
            if self._input is not None and not _same(self._input, x):
                self._show()
            self._input = x
            self._names.append(name)
            self._waiting.discard(name)
            if not self._waiting:
                raise _Enough

        return arrived

    def _show(self) -> None:
        names, x = tuple(self._names), self._input
        self._names, self._input = [], None
        if x is not None:
            self._see(names, x.detach().reshape(-1, x.shape[-1]))


def _same(a: Tensor, b: Tensor) -> bool:
    return a is b or (a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride())


class _Record:
    """One pass of texts: its hidden states on their way up, and what else each block is called with.

    They are found by running the body once with blocks that hand the first one's output on untouched.
    """

    def __init__(self, network: PreTrainedModel, modules: Sequence[nn.Module], ids: Tensor, boundaries: Tensor) -> None:
        self.ids, self.boundaries = ids, boundaries
        self.arguments: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self.in_tuple = False
        first = modules[0].forward
        output: Any = None

        def noted(*positional: Any, **named: Any) -> Any:
            nonlocal output
            hidden, *rest = positional if positional else (named.pop("hidden_states"),)
            if not self.arguments:
                self.hidden: Tensor = hidden
                output = first(hidden, *rest, **named)
                self.in_tuple = isinstance(output, tuple)
            elif hidden is not _hidden_in(output):
                raise BadRequest(
                    f"{type(network).__name__} changes its hidden states between blocks; calibration can't follow.",
                    "Choose a method that needs no calibration.",
                )
            self.arguments.append((tuple(rest), named))
            return output

        with _standing_in(modules, noted):
            hidden_states(network, ids, boundaries)

    def advance(self, module: nn.Module, number: int) -> None:
        """Take the hidden states through a block."""
        self.hidden = _hidden_in(_running(module, self, number)())


def _hidden_in(output: Any) -> Any:
    return output[0] if isinstance(output, tuple) else output


def _running(module: nn.Module, record: _Record, number: int) -> Callable[[], Any]:
    def run() -> Any:
        positional, named = record.arguments[number]
        return module(record.hidden, *positional, **named)

    return run


def _projecting(
    network: PreTrainedModel, modules: Sequence[nn.Module], name: str, record: _Record
) -> Callable[[], Any]:
    def run() -> Any:
        output = (record.hidden,) if record.in_tuple else record.hidden
        with _standing_in(modules, lambda *_, **__: output):
            states = hidden_states(network, record.ids, record.boundaries)
        return network.get_submodule(name)(states)

    return run


@contextmanager
def _standing_in(modules: Sequence[nn.Module], forward: Callable[..., Any]) -> Iterator[None]:
    """Let all blocks compute `forward` instead."""
    for module in modules:
        module.forward = forward
    try:
        yield
    finally:
        for module in modules:
            del module.forward


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)


def _passes(
    network: PreTrainedModel, sequences: Sequence[Sequence[int]], tokens_per_pass: int
) -> list[tuple[Tensor, Tensor]]:
    """Token ids end to end and where each sequence starts; networks that can't be packed get no padding either."""
    if not any(len(sequence) for sequence in sequences):
        raise BadRequest("There is nothing to calibrate with.", "Give calibration texts.")
    device = next(network.parameters()).device
    packs = supports_packing(network)
    found: list[list[Sequence[int]]] = []
    room = 0
    for sequence in sequences:
        if not len(sequence):
            continue
        alike = packs or (found and len(found[-1][0]) == len(sequence))
        if not found or len(sequence) > room or not alike:
            found.append([])
            room = tokens_per_pass
        found[-1].append(sequence)
        room -= len(sequence)
    results = []
    for each in found:
        starts = torch.tensor([0, *(len(sequence) for sequence in each)]).cumsum(0)
        results.append((torch.tensor([i for s in each for i in s], device=device), starts.to(device)))
    return results
