"""Divergence of an output head's distributions from given ones, without holding the [N, V] logits.

For the target p and the student q = softmax(logits / temperature), in nats (the formulas are those of `divergence`):

    forward    KL(p || q)                                      d / d(logits / temperature) = q - p
    reverse    KL(q || p) = sum q d,  d = ln q - ln p          q (d - KL(q || p))
    js         beta KL(p || m) + (1 - beta) KL(q || m),        (1 - beta) q (e - KL(q || m)),  e = ln q - ln m
               m = beta p + (1 - beta) q

The last is the generalised Jensen-Shannon divergence (Agarwal et al., 2024, "On-Policy Distillation of Language
Models", equation 1), beta the target's share in the mixture: divided by beta it tends to the forward KL as beta goes to
0, and divided by 1 - beta to the reverse KL as beta goes to 1.

The rows are walked over in chunks, the gradient formed in the same pass, as in `logprobs.linear_cross_entropy`; the
target's distributions are asked for chunk by chunk too, so a teacher's logits needn't exist at once either.

Left out: gradients with respect to the target, and the factor temperature squared of Hinton et al. (2015), which
belongs to whoever weighs this against another loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from posttrain.ops.linear_head import HeadGradients, HeadSettings, LinearHead, accumulation_dtype, checked_head

Kind = Literal["forward", "reverse", "js"]
Target = Callable[[slice], Tensor]

# (ln q, q, ln p, room) -> the divergences [n, 1] and their gradient with respect to ln q's logits [n, V]. The first two
# and the room are [n, V] and may be overwritten, the target may not.
_Formula = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def linear_divergence(
    hidden: Tensor,
    weight: Tensor,
    target_logprobs: Target,
    *,
    kind: Kind = "forward",
    mixture: float = 0.5,
    temperature: float = 1.0,
    bias: Tensor | None = None,
    softcap: float | None = None,
    scale: float = 1.0,
    row_weights: Tensor | None = None,
    chunk_rows: int = 256,
) -> Tensor:
    """Sum over rows of the (weighted) divergence between target distributions and the head's own.

    Gradients are computed for those of hidden, weight, bias and row_weights that require one; a frozen head costs no
    product for its weight.

    Args:
        hidden: [N, H].
        weight: [V, H], the output head (or tied embedding). `hidden` is converted to its type when they differ.
        target_logprobs: Gives the log-probabilities [n, V] of a slice of rows, at the same temperature, each row
            normalised; minus infinity is allowed. Called once a chunk, in order, without recording gradients; what it
            returns isn't written to and may be in any floating type.
        kind: forward is KL(target || student), reverse KL(student || target), js the generalised Jensen-Shannon
            divergence.
        mixture: beta of js, the target's share in the mixture, strictly between 0 and 1.
        temperature: Divides the student's logits (after the softcap); positive.
        bias: [V], or None.
        softcap: Squash logits to (-softcap, softcap) by softcap * tanh(logits / softcap).
        scale: Factor on the logits before the softcap.
        row_weights: [N] factors on the rows, or None for ones.
        chunk_rows: The most rows of logits held at a time. N rows are cut into equal chunks no longer than this.

    Returns:
        Scalar, float32 (float64 for float64 inputs); infinite where a reverse divergence is.

    Raises:
        ValueError: Shapes that do not fit, an unknown kind, a mixture outside (0, 1), or a chunk, softcap or
            temperature that is not positive.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, not {temperature}")
    # c tanh(s x / c) / T = (c / T) tanh((s / T) x / (c / T)): the temperature is part of scale and softcap.
    settings = HeadSettings(chunk_rows, None if softcap is None else softcap / temperature, scale / temperature)
    hidden, weight, bias = checked_head(hidden, weight, bias, settings)
    if row_weights is not None and row_weights.shape != hidden.shape[:1]:
        raise ValueError(f"row_weights must be {list(hidden.shape[:1])}, not {list(row_weights.shape)}")
    formula = _formula(kind, mixture)
    if torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in (hidden, weight, bias, row_weights)
    ):
        return _LinearDivergence.apply(hidden, weight, bias, row_weights, target_logprobs, formula, settings)
    head = LinearHead(weight, bias, settings)
    values, _ = _walk(head, hidden, row_weights, target_logprobs, formula, (False, False, False))
    return _total(values, row_weights)


def head_logprobs(
    hidden: Tensor,
    weight: Tensor,
    *,
    temperature: float = 1.0,
    bias: Tensor | None = None,
    softcap: float | None = None,
    scale: float = 1.0,
) -> Target:
    """The distributions of another head, a teacher's or the base's, as targets that are computed when asked for.

    The arguments are those of `linear_divergence`, and the errors too.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, not {temperature}")
    rows = max(1, hidden.shape[0])  # a slice is never cut again
    settings = HeadSettings(rows, None if softcap is None else softcap / temperature, scale / temperature)
    hidden, weight, bias = checked_head(hidden, weight, bias, settings)
    head = LinearHead(weight, bias, settings)

    def logprobs(rows: slice) -> Tensor:
        ((_, logits, _),) = head.chunks(hidden[rows])
        return logits.sub_(logits.logsumexp(1, keepdim=True))

    return logprobs


def _formula(kind: Kind, mixture: float) -> _Formula:
    match kind:
        case "forward":
            return _forward
        case "reverse":
            return _reverse
        case "js":
            if not 0 < mixture < 1:
                raise ValueError(f"mixture must lie strictly between 0 and 1, not {mixture}: use forward or reverse")
            return partial(_jensen_shannon, beta=mixture)
    raise ValueError(f"unknown kind {kind!r}: use forward, reverse or js")


def _forward(student: Tensor, probabilities: Tensor, target: Tensor, room: Tensor) -> tuple[Tensor, Tensor]:
    target_probabilities = torch.exp(target, out=room)
    # 0 ln(0 / q) = 0: minus infinity becomes a number so that its product with 0 is 0.
    terms = student.neg_().add_(target).clamp_(min=_floor(student)).mul_(target_probabilities)
    return terms.sum(1, keepdim=True), probabilities.sub_(target_probabilities)


def _reverse(student: Tensor, probabilities: Tensor, target: Tensor, room: Tensor) -> tuple[Tensor, Tensor]:
    ratio = student.sub_(target).masked_fill_(probabilities == 0, 0)
    value = torch.mul(probabilities, ratio, out=room).sum(1, keepdim=True)
    return value, probabilities.mul_(ratio.sub_(value))


def _jensen_shannon(
    student: Tensor, probabilities: Tensor, target: Tensor, room: Tensor, *, beta: float
) -> tuple[Tensor, Tensor]:
    target_probabilities = torch.exp(target, out=room)
    mixture = (target_probabilities * beta).add_(probabilities, alpha=1 - beta).log_()
    # ln(p / m) <= -ln beta and ln(q / m) <= -ln(1 - beta), also where m is too small to be told from 0.
    ratio = student.sub_(mixture).clamp_(max=-math.log1p(-beta))
    terms = mixture.neg_().add_(target).clamp_(_floor(mixture), -math.log(beta)).mul_(target_probabilities)
    of_target = terms.sum(1, keepdim=True)
    of_student = torch.mul(probabilities, ratio, out=room).sum(1, keepdim=True)
    gradient = probabilities.mul_(ratio.sub_(of_student).mul_(1 - beta))
    return beta * of_target + (1 - beta) * of_student, gradient


def _floor(tensor: Tensor) -> float:
    return torch.finfo(tensor.dtype).min / 4


@torch.no_grad()
def _walk(
    head: LinearHead,
    hidden: Tensor,
    factors: Tensor | None,
    target_logprobs: Target,
    formula: _Formula,
    needed: tuple[bool, ...],
) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """The divergences of all rows [N], and the gradients of their weighted sum that are needed."""
    gradients = HeadGradients(head, hidden, needed)
    values = hidden.new_zeros(hidden.shape[0], dtype=accumulation_dtype(hidden.dtype))
    factors = torch.ones_like(values) if factors is None else factors.to(values.dtype)
    rooms: Tensor | None = None
    for rows, logits, buffer in head.chunks(hidden):
        if rooms is None:  # the first chunk is the longest
            rooms = logits.new_empty(2, *logits.shape)
        probabilities, room = rooms[0, : len(logits)], rooms[1, : len(logits)]
        slope = head.slope(logits)
        peak = logits.amax(1, keepdim=True)
        total = torch.sub(logits, peak, out=probabilities).exp_().sum(1, keepdim=True)
        probabilities.div_(total)
        logprobs = logits.sub_(peak.add_(total.log_()))
        target = target_logprobs(rows)
        if target.shape != logits.shape:
            raise ValueError(f"the target's rows must be {list(logits.shape)}, not {list(target.shape)}")
        value, gradient = formula(logprobs, probabilities, target.to(logits.dtype), room)
        values[rows] = value.squeeze(1)
        if any(needed):
            gradients.add(rows, gradient, factors[rows, None], slope, buffer)
    return values, gradients.results()


class _LinearDivergence(torch.autograd.Function):
    """Value and gradients in one walk over the rows; the backward pass only multiplies by the incoming scalar."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        row_weights: Tensor | None,
        target_logprobs: Target,
        formula: _Formula,
        settings: HeadSettings,
    ) -> Tensor:
        head = LinearHead(weight, bias, settings)
        needed = ctx.needs_input_grad
        values, gradients = _walk(head, hidden, row_weights, target_logprobs, formula, needed[:3])
        ctx.weights_dtype = None if row_weights is None else row_weights.dtype
        ctx.save_for_backward(*gradients, values if needed[3] else None)
        return _total(values, row_weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, values = (None if saved is None else saved * grad for saved in ctx.saved_tensors)
        return hidden, weight, bias, None if values is None else values.to(ctx.weights_dtype), None, None, None


def _total(values: Tensor, row_weights: Tensor | None) -> Tensor:
    return values.sum() if row_weights is None else torch.dot(values, row_weights.to(values.dtype))
