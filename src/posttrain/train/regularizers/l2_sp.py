"""L2-SP: a quadratic penalty that pulls parameters back to where they started (Li, Grandvalet and Davoine, 2018).

From "Explicit Inductive Bias for Transfer Learning with Convolutional Networks", section 3:

    alpha / 2 * ||w - w0||^2 + beta / 2 * ||new||^2

over the parameters that the base has, w0 being their values in it, and over new ones, which have no place to go back to
(a fresh head, the parts of a bottleneck). Where an adapter changes a matrix without training its numbers, w - w0 is the
change that it makes: for LoRA (alpha / r) B A. Layers that aren't trained don't deviate and cost nothing.

It is part of the loss, as in the paper, so AdamW scales its gradient like any other. Left out: the penalty weighted by
the Fisher information (L2-SP-Fisher), which needs a pass over the data of the base.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from pydantic import Field
from torch import nn
from torch.utils.checkpoint import checkpoint

from posttrain.models.surgery import effective_weight
from posttrain.train.regularizers import Beginning, Regularizer, Term

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class L2Sp(Regularizer):
    """Pull the weights back to those of the base."""

    weight: float = Field(0.01, ge=0)
    """alpha: how strongly weights that the base has are pulled back to its values."""

    head_weight: float = Field(0.01, ge=0)
    """beta: how strongly new weights, such as a fresh head's, are pulled to zero."""

    def begin(self, beginning: Beginning) -> Term:
        """Note the values of what is trained in place; this costs a copy of them."""
        return _Deviation(self, beginning)


class _Deviation(Term):
    """How far each part of the network is from where it started."""

    def __init__(self, settings: L2Sp, beginning: Beginning) -> None:
        network = beginning.model.network
        wrappers = {name for name, module in network.named_modules() if isinstance(_base(module), nn.Module)}
        self.settings = settings
        self.start: dict[str, torch.Tensor] = {}
        self.new: list[str] = []
        changed: set[str] = set()
        for name, parameter in network.named_parameters():
            if not parameter.requires_grad:
                continue
            wrapper = _added_by(name, wrappers)
            if wrapper is not None and hasattr(network.get_submodule(wrapper), "effective_weight"):
                changed.add(wrapper)
                continue
            own = name.replace(".base.", ".") if wrapper is None else _copied(name, parameter, network, wrapper)
            if own is None or own in beginning.fresh:
                self.new.append(name)
            else:
                self.start[name] = parameter.detach().clone()
        self.changed = sorted(changed)

    def penalty(self, network: PreTrainedModel) -> torch.Tensor | None:
        """alpha / 2 of the squared distances and beta / 2 of the squared new parameters, summed in float32.

        Differences are made again in the backward pass instead of being kept: at most one of them exists at a time.
        """
        parameters = dict(network.named_parameters())
        old = [_remade(_distance, parameters[name], start) for name, start in self.start.items()]
        old += [_remade(_change, network.get_submodule(name)) for name in self.changed]
        new = [parameters[name].float().square().sum() for name in self.new]
        halves = [(self.settings.weight / 2, old), (self.settings.head_weight / 2, new)]
        terms = [factor * torch.stack(values).sum() for factor, values in halves if values and factor]
        return sum(terms[1:], terms[0]) if terms else None


def _base(module: nn.Module) -> object:
    return getattr(module, "base", None)


def _added_by(name: str, wrappers: set[str]) -> str | None:
    """The wrapper that a parameter belongs to as something added to its base; None for the network's own."""
    parts = name.split(".")
    for end in range(len(parts) - 1, 0, -1):
        if (prefix := ".".join(parts[:end])) in wrappers:
            return None if parts[end] == "base" else prefix
    return None


def _copied(name: str, parameter: torch.Tensor, network: nn.Module, wrapper: str) -> str | None:
    """The parameter of its base that one of a wrapper is a copy of, as a whole module trained beside the old one is."""
    for inner, original in network.get_submodule(f"{wrapper}.base").named_parameters():
        if name.endswith(f".{inner}") and torch.equal(parameter, original):
            return f"{wrapper}.{inner}"
    return None


def _remade(function: object, *arguments: object) -> torch.Tensor:
    value: torch.Tensor = checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)
    return value


def _distance(parameter: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
    return (parameter.float() - start.float()).square().sum()


def _change(module: nn.Module) -> torch.Tensor:
    """Squared norm of what a wrapper adds to the matrix of its base."""
    base = module.base
    assert isinstance(base, nn.Module)
    return (effective_weight(module).float() - effective_weight(base).detach().float()).square().sum()
