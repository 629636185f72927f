"""Surgery on a network: find modules by rule, replace them, put the old ones back.

A rule is a group (`attention`, `mlp`, `all-linear`, `embeddings`), the end of a module's dotted name (`q_proj`,
`layers.0.mlp.up_proj`), or a regular expression that matches the whole dotted name.
"""

from __future__ import annotations

import re
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from posttrain.core.errors import BadRequest, did_you_mean

if TYPE_CHECKING:
    from transformers import PreTrainedModel

GROUPS = ("attention", "mlp", "all-linear", "embeddings")

# Words in the dotted names of feed-forward blocks; fc1, fc2: OPT, BART; intermediate, output.dense: BERT and its kin;
# densereludense: T5.
_MLP = ("mlp", "feed_forward", "ffn", "fc1", "fc2", "intermediate", "output.dense", "densereludense")


def is_linear(module: nn.Module) -> bool:
    """Whether a module is a linear map of a 2-D weight: nn.Linear, GPT-2's Conv1D, or one that says `is_linear`."""
    return isinstance(module, nn.Linear) or _is_conv1d(module) or bool(getattr(module, "is_linear", False))


def _is_conv1d(module: nn.Module) -> bool:
    """GPT-2's Conv1D, a linear map whose weight lies transposed: [inputs, outputs]; told by name to save an import."""
    return type(module).__name__ == "Conv1D"


def features(module: nn.Module) -> tuple[int, int]:
    """(inputs, outputs) of a linear map or an embedding."""
    shape: Any = module
    if isinstance(module, nn.Embedding):
        return module.num_embeddings, module.embedding_dim
    if _is_conv1d(module):
        inputs, outputs = shape.weight.shape
        return inputs, outputs
    return int(shape.in_features), int(shape.out_features)


def weight_of(module: nn.Module) -> torch.Tensor:
    """The stored weight of a linear map or an embedding, as it lies in memory."""
    return cast("torch.Tensor", module.weight)


def trained_dtype(module: nn.Module) -> torch.dtype:
    """The type of what is trained beside a module: that of its weight, float32 where that is quantized."""
    weight = weight_of(module)
    return weight.dtype if isinstance(weight, nn.Parameter) and weight.dtype.is_floating_point else torch.float32


def effective_weight(module: nn.Module) -> torch.Tensor:
    """The matrix a module amounts to; one that is wrapped, adapted or quantized says so by a method of this name."""
    own = getattr(module, "effective_weight", None)
    return cast("torch.Tensor", own()) if own is not None else weight_of(module)


def effective_bias(module: nn.Module) -> torch.Tensor | None:
    """What a module adds to its outputs; one that keeps it in another form says so by a method of this name."""
    own = getattr(module, "effective_bias", None)
    return cast("torch.Tensor | None", own() if own is not None else getattr(module, "bias", None))


@dataclass(frozen=True)
class IntegerWeight:
    """A matrix of integers with scales: scale * (codes - zero_point).

    Attributes:
        codes: uint8 [outputs, inputs], each below 2^bits.
        scale: Floating, [outputs, groups].
        zero_point: uint8 [outputs, groups]; None for 2^(bits - 1) everywhere.
        bits: 2 to 8.
        group_size: Neighbouring inputs that share a scale and a zero-point.
    """

    codes: torch.Tensor
    scale: torch.Tensor
    zero_point: torch.Tensor | None
    bits: int
    group_size: int


def integer_weight(module: nn.Module) -> IntegerWeight | None:
    """The integers a module is made of, which it gives by a method of this name; None where it has none.

    Raises:
        BadRequest: If its scales don't belong to neighbouring inputs.
    """
    own = getattr(module, "integer_weight", None)
    return cast("IntegerWeight | None", None if own is None else own())


def _is_head(network: PreTrainedModel, module: nn.Module) -> bool:
    head = network.get_output_embeddings()
    return head is not None and module in set(head.modules())


def _in_group(name: str, group: str) -> bool:
    """Membership by the words in the dotted path; transformers' architectures name these blocks consistently."""
    words = name.lower()
    if group == "attention":
        return "attn" in words or "attention" in words
    return any(word in words for word in _MLP)


def select(network: PreTrainedModel, targets: str | Sequence[str]) -> dict[str, nn.Module]:
    """Modules that the rules name, by dotted name, in the network's order.

    Args:
        network: The network to search. The vocabulary head is selected only when a rule names it.
        targets: One rule or several.

    Raises:
        BadRequest: If a rule selects nothing, with the names there are.
    """
    rules = [targets] if isinstance(targets, str) else list(targets)
    candidates = {
        name: module
        for name, module in network.named_modules()
        if is_linear(module) or isinstance(module, nn.Embedding)
    }
    chosen: set[str] = set()
    for rule in rules:
        found = {name for name, module in candidates.items() if _matches(network, name, module, rule)}
        if not found:
            known = {name.rsplit(".", 1)[-1] for name in candidates} | {*GROUPS} - {rule}
            raise BadRequest(f"No module of {type(network).__name__} matches '{rule}'.", did_you_mean(rule, known))
        chosen |= found
    return {name: module for name, module in candidates.items() if name in chosen}


def _matches(network: PreTrainedModel, name: str, module: nn.Module, rule: str) -> bool:
    if rule == "embeddings":
        return isinstance(module, nn.Embedding) and module in set(network.get_input_embeddings().modules())
    if rule == "all-linear":
        return is_linear(module) and not _is_head(network, module)
    if rule == "mlp":
        return is_linear(module) and _in_group(name, "mlp") and not _in_group(name, "attention")
    if rule == "attention":
        return is_linear(module) and _in_group(name, "attention") and not _pooler(name)
    if name == rule or name.endswith(f".{rule}"):
        return True
    try:
        return re.fullmatch(rule, name) is not None
    except re.error:
        return False


def _pooler(name: str) -> bool:
    return "pooler" in name.lower()


def blocks(network: PreTrainedModel) -> dict[str, tuple[int, int]]:
    """The blocks of a network by dotted name: each one's number from the bottom, from 0, and how many its stack has.

    They are found by their number, which the configuration says, whatever an architecture calls them. Each stack of an
    encoder and a decoder is counted by itself.

    Raises:
        BadRequest: If the network has no stack of blocks.
    """
    count = int(network.config.get_text_config().num_hidden_layers)
    found: dict[str, tuple[int, int]] = {}
    for name, module in network.named_modules():
        # A list inside a block (experts) may be as long as the list of blocks.
        if isinstance(module, nn.ModuleList) and len(module) == count and not _inside(name, found):
            found |= {f"{name}.{number}": (number, count) for number in range(count)}
    if not found:
        raise BadRequest(
            f"{type(network).__name__} has no list of {count} blocks, so its layers can't be told apart.",
            "Leave out what treats layers differently.",
        )
    return found


def _inside(name: str, places: Container[str]) -> bool:
    parts = name.split(".")
    return any(".".join(parts[:n]) in places for n in range(1, len(parts)))


def layer_numbers(network: PreTrainedModel) -> tuple[dict[str, int], int]:
    """The layer of each parameter by dotted name, and the number of the highest layer.

    The embeddings, with what belongs to them, are layer 0, the blocks 1 … n, and final norm and head n + 1. A matrix
    that embedding and head share is an embedding. What an adapter has put beside a module counts like the module.

    Raises:
        BadRequest: If the network has no stack of blocks.
    """
    places = blocks(network)
    top = next(iter(places.values()))[1] + 1
    modules = dict(network.named_modules())
    body = "" if network.base_model is network else f"{network.base_model_prefix}."

    def number(name: str) -> int:
        parts = name.split(".")
        above = [".".join(parts[:n]) for n in range(1, len(parts))]
        for prefix in above:
            if prefix in places:
                return places[prefix][0] + 1
        embeds = any(isinstance(getattr(modules[prefix], "base", modules[prefix]), nn.Embedding) for prefix in above)
        return 0 if embeds or (name.startswith(body) and "embed" in name.lower()) else top

    return {name: number(name) for name, _ in network.named_parameters()}, top


def replace(network: nn.Module, name: str, module: nn.Module) -> nn.Module:
    """Put `module` in the place `name`; returns the one that was there."""
    parent_name, _, attribute = name.rpartition(".")
    parent = network.get_submodule(parent_name)
    before = getattr(parent, attribute)
    setattr(parent, attribute, module)
    return before
