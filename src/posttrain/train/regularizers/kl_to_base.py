"""KL to the base: predictions on the task's own examples stay near those of the network before it was trained.

    weight * KL(base || model), or KL(model || base), a unit: a learned token, a row of a classifier

The idea is that of Li and Hoiem (2016, "Learning without Forgetting"), whose loss for the old task is a cross-entropy
with the base's recorded predictions and has the gradient of the forward KL. Here it is the task's own head that is
compared, and the base is computed anew, adapter off and dropout off, in one further pass a micro-batch. Temperature
divides the logits of both; the result isn't multiplied by its square, since it has a weight already.

Left out: predictions that aren't one choice among several (numbers, several labels at once).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field

from posttrain.core.catalog import term_of
from posttrain.core.errors import BadRequest
from posttrain.ops.divergence import forward_kl, reverse_kl
from posttrain.ops.linear_divergence import head_logprobs, linear_divergence
from posttrain.train.objectives import Prediction, Supervised
from posttrain.train.regularizers import Beginning, Regularizer, Term

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class KlToBase(Regularizer):
    """Keep the predictions near the base's."""

    weight: float = Field(0.1, gt=0)
    """What a nat of divergence costs, against a nat of the task's loss."""

    direction: Literal["forward", "reverse"] = "forward"
    """forward, KL(base || model), keeps whatever the base finds likely; reverse, KL(model || base), avoids the rest."""

    temperature: float = Field(1.0, gt=0)
    """Divides the logits of both; above 1, unlikely predictions count for more."""

    def begin(self, beginning: Beginning) -> Term:
        """Check that there is a base to compare with.

        Raises:
            BadRequest: If the head is new, the adapter doesn't keep the base, or the task's pass can't be shared.
        """
        if not isinstance(beginning.objective, Supervised):
            raise BadRequest(
                f"kl_to_base can't look at the predictions of '{term_of(beginning.objective)}'.",
                "Take another objective or regularizer.",
            )
        if beginning.fresh:
            raise BadRequest(
                f"kl_to_base has nothing to compare with: the base has no {sorted(beginning.fresh)[0]}, a new head.",
                "Train the head first, and keep to its predictions in a later step; or take l2_sp.",
            )
        with beginning.base():  # refused now rather than in the first step
            return _Divergence(self, beginning.objective, beginning.base)


class _Divergence(Term):
    """Compares the task's predictions with the base's on the same micro-batch."""

    judges = True

    def __init__(self, settings: KlToBase, task: Supervised, base: Callable[[], AbstractContextManager[None]]) -> None:
        self.settings, self.task, self.base = settings, task, base
        self.weight = settings.weight

    def loss(self, network: PreTrainedModel, prediction: Prediction, batch: Any) -> torch.Tensor:
        """The KL summed over the units, in nats."""
        kind, temperature = self.settings.direction, self.settings.temperature
        with torch.no_grad(), _without_dropout(network), self.base():
            before = _detached(self.task.predict(network, batch))
        if prediction.logits is not None and before.logits is not None:
            targets, choices = prediction.targets, prediction.logits.shape
            if targets.is_floating_point() or targets.shape != choices[:-1] or choices[-1] < 2:
                raise BadRequest(
                    "kl_to_base compares choices of one class among several, which these predictions aren't.",
                    "Take l2_sp or replay.",
                )
            divergence = forward_kl if kind == "forward" else reverse_kl
            return divergence(before.logits, prediction.logits, temperature).sum()
        head, old = prediction.head, before.head
        assert head is not None
        assert old is not None
        return linear_divergence(
            prediction.hidden,
            head.weight,
            head_logprobs(
                before.hidden, old.weight, temperature=temperature, bias=old.bias, softcap=old.softcap, scale=old.scale
            ),
            kind=kind,
            temperature=temperature,
            bias=head.bias,
            softcap=head.softcap,
            scale=head.scale,
        )


def _detached(prediction: Prediction) -> Prediction:
    """The prediction with the head's tensors as they are now, not as they will be outside the base's context."""
    head = prediction.head
    if head is None:
        return prediction
    bias = None if head.bias is None else head.bias.detach()
    return replace(prediction, head=replace(head, weight=head.weight.detach(), bias=bias))


@contextmanager
def _without_dropout(network: PreTrainedModel) -> Iterator[None]:
    """The base's predictions are fixed targets; and without dropout they take nothing from the random numbers."""
    was_training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was_training)
