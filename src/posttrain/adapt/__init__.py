"""The contract of an adapter: which parameters of a network are trained, and what is added to it for that.

An adapter is settings; what it adds lives in the network as ordinary modules. `apply` may be called several times under
different names: one base, many adapters. One of them is active (`activate`), or each part of a batch has its own
(`assigned`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

import torch
from torch import nn

from posttrain.core import catalog, files
from posttrain.core.errors import BadRequest, Failure
from posttrain.core.settings import Settings
from posttrain.models.heads import task_head
from posttrain.models.surgery import select, weight_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from posttrain.models.language_model import LanguageModel


@dataclass(frozen=True)
class Assignment:
    """Which adapter computes which part of a batch.

    Attributes:
        names: One for each segment; None computes the base alone.
        lengths: Tokens of each segment where they lie end to end; None where each segment is a row of the batch.
    """

    names: tuple[str | None, ...]
    lengths: tuple[int, ...] | None = None
    _found: dict[tuple[torch.Size, torch.device], dict[str, torch.Tensor]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def tokens(self, shape: torch.Size, device: torch.device) -> dict[str, torch.Tensor]:
        """Indices of each adapter's tokens.

        Args:
            shape: Of the batch without the features: [rows, tokens a row], [1, T] or [T].
            device: Where the indices are wanted.

        Returns:
            For each adapter that has any, [n] long indices into the flattened batch.

        Raises:
            BadRequest: If a batch of this shape can't consist of these segments.
        """
        if (shape, device) not in self._found:
            lengths = self._lengths_in(shape)
            parts: dict[str, list[torch.Tensor]] = defaultdict(list)
            for name, end, length in zip(self.names, accumulate(lengths), lengths):
                if name is not None:
                    parts[name].append(torch.arange(end - length, end, device=device))
            self._found[shape, device] = {name: torch.cat(part) for name, part in parts.items()}
        return self._found[shape, device]

    def _lengths_in(self, shape: torch.Size) -> Sequence[int]:
        count, segments = shape.numel(), len(self.names)
        if self.lengths is None:
            # Some layers see the batch without its rows, [T]; where rows are seen, they must be the segments.
            if count % segments == 0 and (len(shape) == 1 or shape[0] == segments):
                return [count // segments] * segments
        elif count == sum(self.lengths):
            return self.lengths
        elif count == segments * max(self.lengths):  # a network that can't take packed input gets padded rows
            return [max(self.lengths)] * segments
        raise BadRequest(
            f"A batch of shape {list(shape)} can't be divided among {segments} assigned adapters"
            + (f" of {list(self.lengths)} tokens." if self.lengths is not None else ", one a row."),
            "Give one name a row, or the lengths of packed segments; a layer that sees only some tokens, as the "
            "vocabulary head in training, can't be divided.",
        )


class AdapterLayer(nn.Module, ABC):
    """A module of the network with something added: `base` computes what the network computed before.

    Attributes:
        base: The module it stands for.
        active: Name of the adapter in use, or an assignment of several; None computes `base` alone.
    """

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.active: str | Assignment | None = None
        self.train(base.training)  # a new module would be in training mode, with its dropout on

    @property
    def weight(self) -> torch.Tensor:
        """The base's weight, for code that looks at a module's dtype or shape."""
        return weight_of(self.base)

    @abstractmethod
    def holds(self, name: str) -> bool:
        """Whether the adapter of this name changes this module."""

    @abstractmethod
    def adapted(self, x: torch.Tensor, output: torch.Tensor, name: str) -> torch.Tensor:
        """What the module computes with an adapter that it holds.

        Args:
            x: Input, [..., inputs]; of an embedding ids [...].
            output: What `base` made of it, [..., outputs].
            name: The adapter.

        Returns:
            [..., outputs], in the dtype of `output`.
        """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., inputs] -> [..., outputs]; for an embedding ids [...] -> [..., outputs]."""
        output: torch.Tensor = self.base(x)
        if isinstance(self.active, Assignment):
            return self._by_segment(x, output, self.active)
        if self.active is None or not self.holds(self.active):
            return output
        return self.adapted(x, output, self.active)

    def _by_segment(self, x: torch.Tensor, output: torch.Tensor, assignment: Assignment) -> torch.Tensor:
        """The base runs once over the whole batch, each adapter only over its own tokens."""
        shape = output.shape[:-1]
        x = x.reshape(shape.numel(), *x.shape[len(shape) :])  # [N, inputs], or ids [N]
        flat = output.reshape(shape.numel(), -1)  # [N, outputs]
        for name, tokens in assignment.tokens(shape, output.device).items():
            if self.holds(name):
                flat = flat.index_copy(0, tokens, self.adapted(x[tokens], flat[tokens], name))
        return flat.view(output.shape)


def adapter_layers(network: nn.Module) -> dict[str, AdapterLayer]:
    """All adapted modules by dotted name."""
    return {name: module for name, module in network.named_modules() if isinstance(module, AdapterLayer)}


def activate(network: nn.Module, name: str | None) -> None:
    """Use the adapter `name` everywhere it exists; None uses the base alone."""
    _use(network, name)


@contextmanager
def assigned(network: nn.Module, names: Sequence[str | None], lengths: Sequence[int] | None = None) -> Iterator[None]:
    """Compute each part of a batch with its own adapter inside the block.

    Args:
        network: One that carries the adapters.
        names: The adapter of each row, or of each packed segment; None for the base alone.
        lengths: Tokens of each segment where they are packed end to end; not given for rows.

    Raises:
        BadRequest: If no layer holds an adapter of a name, or names and lengths differ in number.
    """
    layers = adapter_layers(network).values()
    for name in names:
        if name is not None and not any(layer.holds(name) for layer in layers):
            raise BadRequest(f"The network carries no adapter '{name}'.", "Apply or load it under this name first.")
    if lengths is not None and len(lengths) != len(names):
        raise BadRequest(f"{len(names)} adapters are assigned to {len(lengths)} segments.", "Give one for each.")
    with _using(network, Assignment(tuple(names), None if lengths is None else tuple(lengths))):
        yield


def _use(network: nn.Module, active: str | Assignment | None) -> None:
    for layer in adapter_layers(network).values():
        layer.active = active


@contextmanager
def _using(network: nn.Module, active: str | Assignment | None) -> Iterator[None]:
    before = {key: layer.active for key, layer in adapter_layers(network).items()}
    _use(network, active)
    try:
        yield
    finally:
        for key, layer in adapter_layers(network).items():
            layer.active = before[key]


def adaptable(
    network: PreTrainedModel, targets: str | list[str], layer_class: type[AdapterLayer]
) -> dict[str, nn.Module]:
    """The modules that rules select, by dotted name; one adapted already by layers of the class is its wrapper.

    A task's head isn't among them: it is trained whole.

    Raises:
        BadRequest: If a rule selects nothing, nothing but the head, or a module is adapted by another method.
    """
    layers, head = adapter_layers(network), tuple(f"{key}." for key in task_head(network))
    chosen: dict[str, nn.Module] = {}
    for key, module in select(network, targets).items():
        if f"{key}.".startswith(head):
            continue
        parts = key.split(".")
        owner = next((name for n in range(len(parts)) if (name := ".".join(parts[: n + 1])) in layers), None)
        if owner is None:
            chosen[key] = module
        elif key in (owner, f"{owner}.base"):  # and not what an adapter has put beside the base
            chosen[owner] = layers[owner]
    if not chosen:
        raise BadRequest(f"{targets} names only the task's head, which is trained whole.", "Name parts of the body.")
    for key, module in chosen.items():
        if isinstance(module, AdapterLayer) and not isinstance(module, layer_class):
            raise BadRequest(f"{key} carries an adapter of another method.", "Merge that one first.")
    return chosen


def add_to_weight(key: str, module: nn.Module, delta: torch.Tensor, sign: float = 1.0) -> None:
    """Add an update to a module's own weight, in place.

    Args:
        key: The module's name, for the error.
        module: A linear map or an embedding.
        delta: In the shape of the weight.
        sign: -1 takes it back.

    Raises:
        BadRequest: If the weight isn't floating point; adding there would round the update away.
    """
    weight = weight_of(module)
    if not weight.dtype.is_floating_point or not isinstance(weight, nn.Parameter):
        raise BadRequest(
            f"{key} is quantized; merging would round the update away.", "Merge first, then quantize the merged model."
        )
    with torch.no_grad():
        weight.data.add_(delta.to(weight.dtype), alpha=sign)


def untie_if_adapted(network: PreTrainedModel) -> None:
    """Give an adapted embedding a weight of its own when the vocabulary head shares it: only one of the two moves."""
    embedding, head = network.get_input_embeddings(), network.get_output_embeddings()
    if head is None or not any(isinstance(module, AdapterLayer) for module in (embedding, head)):
        return
    first, second = (module.base if isinstance(module, AdapterLayer) else module for module in (embedding, head))
    if weight_of(first) is weight_of(second):
        first.weight = nn.Parameter(weight_of(first).detach().clone(), requires_grad=False)
        network.config.get_text_config().tie_word_embeddings = False
        network.config.tie_word_embeddings = False


class Adapter(Settings):
    """A way to adapt a network."""

    default_learning_rate: ClassVar[float] = 2e-5
    """Base learning rate that suits the method when the user gives none."""

    in_place: ClassVar[bool] = False
    """Whether it trains the network's own parameters, so that what comes out is a whole model."""

    mergeable: ClassVar[bool] = True
    """Whether what was learned can be folded into the base's own weights."""

    @abstractmethod
    def apply(self, network: PreTrainedModel, name: str = "default") -> None:
        """Freeze what isn't trained, add what is; the outputs don't change where the method allows."""

    @contextmanager
    def disabled(self, network: PreTrainedModel) -> Iterator[None]:
        """Compute with the base alone inside the block."""
        with _using(network, None):
            yield

    @abstractmethod
    def merge(self, network: PreTrainedModel, name: str = "default") -> None:
        """Fold what was learned into the base's own weights and remove what was added.

        Raises:
            BadRequest: If the method isn't `mergeable`.
        """

    @abstractmethod
    def save(self, model: LanguageModel, folder: Path, name: str = "default") -> None:
        """Write the adapter alone to a folder, in Hugging Face PEFT's layout where one exists."""

    @classmethod
    @abstractmethod
    def load(cls, network: PreTrainedModel, folder: Path, name: str = "default") -> Self:
        """Read an adapter from a folder and attach it to the network."""

    def trainable(self, network: PreTrainedModel) -> dict[str, nn.Parameter]:
        """The parameters to train by name."""
        return {key: p for key, p in network.named_parameters() if p.requires_grad}

    def penalty(self, network: PreTrainedModel) -> torch.Tensor | None:
        """What the method adds to the loss of an optimizer step, whatever the batch; a differentiable scalar."""
        return None

    def before_update(self, network: PreTrainedModel, step: int, steps: int) -> None:
        """Called when the gradients of a step are complete and nothing has used them yet.

        Args:
            network: The network, with gradients.
            step: Number of the step, 1 … steps.
            steps: All steps.
        """

    def after_update(self, network: PreTrainedModel, step: int, steps: int) -> None:
        """Called when the optimizer has changed the parameters, with the same arguments."""

    def state(self, network: PreTrainedModel) -> dict[str, torch.Tensor]:
        """Tensors of the network that training changes beside its parameters, by dotted name.

        They are the tensors themselves, not copies: a checkpoint holds them, and resuming writes into them.
        """
        return {}


def write_own_layout(adapter: Adapter, tensors: dict[str, torch.Tensor], model: LanguageModel, folder: Path) -> None:
    """Write an adapter for which PEFT has no layout: its tensors, and its settings under PEFT's file names."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": catalog.term_of(adapter).upper(),
        "base_model_name_or_path": model.card.get("base", model.reference),
        "settings": adapter.model_dump(mode="json"),
    }
    files.write_json(folder / "adapter_config.json", config)


class InPlaceAdapter(Adapter):
    """Base of methods that add nothing and train some of the network's own parameters, a task's head among them.

    The values they had are kept, so that the base can still be computed with; `merge` lets go of them.
    """

    in_place: ClassVar[bool] = True

    @abstractmethod
    def selects(self, network: PreTrainedModel, name: str, parameter: nn.Parameter) -> bool:
        """Whether the parameter is trained."""

    def keeps_base(self) -> bool:
        """Whether `disabled` will be needed, which costs a copy of what is trained."""
        return True

    def apply(self, network: PreTrainedModel, name: str = "default") -> None:
        """Free the selected parameters and freeze the rest.

        Raises:
            BadRequest: If nothing is selected.
        """
        chosen = self._chosen(network)
        if not chosen:
            raise BadRequest(
                f"{type(network).__name__} has no parameter that {type(self).__name__} trains.",
                "Choose another adapter.",
            )
        for key, parameter in network.named_parameters():
            parameter.requires_grad = key in chosen
        if self.keeps_base():
            vars(network)[_BASE] = {key: p.detach().clone() for key, p in chosen.items()}

    def _chosen(self, network: PreTrainedModel) -> dict[str, nn.Parameter]:
        head = tuple(f"{key}." for key in task_head(network))
        return {
            key: p for key, p in network.named_parameters() if key.startswith(head) or self.selects(network, key, p)
        }

    @contextmanager
    def disabled(self, network: PreTrainedModel) -> Iterator[None]:
        """Compute with the values from before training inside the block.

        Raises:
            BadRequest: If they weren't kept.
        """
        kept: dict[str, torch.Tensor] | None = vars(network).get(_BASE)
        if kept is None:
            raise BadRequest(
                "The base's own weights weren't kept, so it can't be computed with.", "Set keep_base: true."
            )
        parameters = {key: network.get_parameter(key) for key in kept}
        trained = {key: p.data for key, p in parameters.items()}
        for key, parameter in parameters.items():
            parameter.data = kept[key]
        try:
            yield
        finally:
            for key, parameter in parameters.items():
                parameter.data = trained[key]

    def merge(self, network: PreTrainedModel, name: str = "default") -> None:
        """What was trained are the network's own weights already; the old ones are let go."""
        vars(network).pop(_BASE, None)
        network.requires_grad_(True)

    def save(self, model: LanguageModel, folder: Path, name: str = "default") -> None:
        """Write the trained parameters and ``adapter_config.json``; PEFT has no layout for them."""
        trained = {key: p.detach().cpu().contiguous() for key, p in self._chosen(model.network).items()}
        write_own_layout(self, trained, model, folder)

    @classmethod
    def load(cls, network: PreTrainedModel, folder: Path, name: str = "default") -> Self:
        """Free the same parameters and give them the stored values.

        Raises:
            Failure: If the stored parameters don't fit the network.
        """
        from safetensors.torch import load_file

        adapter = cls.parse(files.read_json(folder / "adapter_config.json")["settings"])
        adapter.apply(network, name)
        own = dict(network.named_parameters())
        for key, tensor in load_file(folder / "adapter_model.safetensors").items():
            if key not in own or own[key].shape != tensor.shape:
                raise Failure(f"The adapter {folder} doesn't fit: {type(network).__name__} has no such '{key}'.")
            own[key].data.copy_(tensor)
        return adapter


# Attribute of a network that keeps the values trained parameters had; not a module's, so never saved or moved.
_BASE = "_posttrain_base"


def trainable_share(network: PreTrainedModel) -> tuple[int, float]:
    """Number of trainable parameters, and their share of the base's parameters (tied ones counted once)."""
    trainable = sum(p.numel() for p in network.parameters() if p.requires_grad)
    added = sum(
        p.numel()
        for layer in adapter_layers(network).values()
        for key, p in layer.named_parameters()
        if not key.startswith("base.")
    )
    return trainable, trainable / (sum(p.numel() for p in network.parameters()) - added)
