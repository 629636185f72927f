"""Log-probabilities, entropies and cross-entropy, from logits or straight from hidden states and the output head.

The functions on logits never hold a second tensor of the size of the logits. The `linear_` functions never hold the
logits at all: they walk over the rows of the hidden states in chunks, one reused buffer [rows, V], as proposed for
large vocabularies by Wijmans et al. (2024, "Cut Your Losses in Large-Vocabulary Language Models") and Hsu et al. (2024,
"Liger Kernel"). With f(u) = softcap * tanh(u / softcap), or the identity,

    logits = f(scale * (hidden @ weight.T + bias))                                         [N, V]
    nll_i  = logsumexp(logits_i) - logits_i[target_i]
    d nll_i / d (hidden @ weight.T)_i = scale * f'(.) * (softmax(logits_i) - onehot(target_i))

Left out: label smoothing and an ignored target id. Select the rows that carry loss before calling, which also saves
their share of the matrix products, or give them weight zero.

Sums are accumulated in float32 for half-precision inputs and in the input's own precision otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, overload

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from posttrain.ops.linear_head import HeadGradients, HeadSettings, LinearHead, accumulation_dtype, checked_head

# Elements of one temporary block: 4 MB of float32, which allocators keep for reuse and caches hold.
BLOCK_ELEMENTS = 1 << 20


def token_logprobs(logits: Tensor, targets: Tensor) -> Tensor:
    """Log-probability of each target under the softmax of its logits.

    Args:
        logits: [..., V], any floating type.
        targets: [...], integer ids in [0, V).

    Returns:
        [...], float32 (float64 for float64 logits), differentiable with respect to the logits.

    Raises:
        ValueError: The leading shapes of logits and targets differ.
    """
    if logits.shape[:-1] != targets.shape:
        raise ValueError(
            f"logits {list(logits.shape)} need targets {list(logits.shape[:-1])}, not {list(targets.shape)}"
        )
    chosen = logits.gather(-1, targets.long().unsqueeze(-1)).squeeze(-1)
    return chosen.to(accumulation_dtype(logits.dtype)) - _by_blocks(_logsumexp, logits)


def sequence_logprobs(logprobs: Tensor, mask: Tensor, normalize: bool = False) -> Tensor:
    """Log-probability of each sequence: the sum of its tokens' log-probabilities where the mask is set.

    Args:
        logprobs: [B, T], per-token log-probabilities; what stands at masked positions is never read into the sum.
        mask: [B, T], bool or 0/1.
        normalize: Divide by the number of tokens (the mean log-probability); a row without tokens gives 0.

    Returns:
        [B], of the type of `logprobs`.
    """
    mask = mask.bool()
    total = logprobs.masked_fill(~mask, 0).sum(-1)
    return total / mask.sum(-1).clamp(min=1) if normalize else total


def entropy(logits: Tensor) -> Tensor:
    """Shannon entropy, in nats, of the softmax of the logits. Logits of minus infinity count as probability zero.

    Args:
        logits: [..., V], any floating type.

    Returns:
        [...], float32 (float64 for float64 logits), in [0, ln V], differentiable with respect to the logits.
    """
    return _by_blocks(_entropy, logits)


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None = None,
    chunk: int = 256,
    softcap: float | None = None,
    scale: float = 1.0,
    weights: Tensor | None = None,
) -> Tensor:
    """Sum over rows of the (weighted) negative log-likelihood of the targets, without holding the [N, V] logits.

    The forward pass also computes the gradients of whatever requires one, chunk by chunk, and keeps only those. The
    cost is one matrix product for the value and one more for each of the hidden states and the head, the least
    possible; recomputing in the backward pass would pay for the logits twice.

    Args:
        hidden: [N, H].
        weight: [V, H], the output head (or tied embedding). `hidden` is converted to its type when they differ.
        targets: [N], integer ids in [0, V).
        bias: [V], or None.
        chunk: The most rows of logits held at a time. N rows are cut into equal chunks no longer than this.
        softcap: Squash logits to (-softcap, softcap) by softcap * tanh(logits / softcap) (Gemma 2).
        scale: Factor on the logits before the softcap (Cohere's `logit_scale`, Granite's 1 / `logits_scaling`).
        weights: [N] factors on the rows, or None for ones. Differentiable.

    Returns:
        Scalar, float32 (float64 for float64 inputs).

    Raises:
        ValueError: Shapes that do not fit, a chunk below one, or a softcap that is not positive.
    """
    settings = HeadSettings(chunk, softcap, scale)
    hidden, weight, bias = checked_head(hidden, weight, bias, settings)
    _check_targets(hidden, targets)
    if weights is not None and weights.shape != targets.shape:
        raise ValueError(f"weights must be {list(targets.shape)}, not {list(weights.shape)}")
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (hidden, weight, bias, weights)):
        return _LinearCrossEntropy.apply(hidden, weight, bias, weights, targets, settings)
    nll = -_values(LinearHead(weight, bias, settings), hidden, targets, with_entropy=False)[0]
    return nll.sum() if weights is None else torch.dot(nll, weights.to(nll.dtype))


@overload
def linear_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None = ...,
    chunk: int = ...,
    softcap: float | None = ...,
    scale: float = ...,
    with_entropy: Literal[False] = ...,
) -> Tensor: ...


@overload
def linear_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None = ...,
    chunk: int = ...,
    softcap: float | None = ...,
    scale: float = ...,
    *,
    with_entropy: Literal[True],
) -> tuple[Tensor, Tensor]: ...


def linear_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None = None,
    chunk: int = 256,
    softcap: float | None = None,
    scale: float = 1.0,
    with_entropy: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Log-probability of each target, without holding the [N, V] logits; the backward pass recomputes them in chunks.

    For losses that need each token's log-probability (policy gradients, preferences). For the plain sum of the
    negative log-likelihood `linear_cross_entropy` saves one matrix product.

    Args:
        hidden, weight, targets, bias, chunk, softcap, scale: As in `linear_cross_entropy`.
        with_entropy: Also return the entropy of each row's distribution, in nats, without gradient.

    Returns:
        [N] log-probabilities, float32 (float64 for float64 inputs); with `with_entropy` a pair of such tensors.

    Raises:
        ValueError: As in `linear_cross_entropy`.
    """
    settings = HeadSettings(chunk, softcap, scale)
    hidden, weight, bias = checked_head(hidden, weight, bias, settings)
    _check_targets(hidden, targets)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (hidden, weight, bias)):
        logprobs, entropies = _LinearLogprobs.apply(hidden, weight, bias, targets, settings, with_entropy)
    else:
        logprobs, _, entropies = _values(LinearHead(weight, bias, settings), hidden, targets, with_entropy)
    return (logprobs, entropies) if with_entropy else logprobs


def _logsumexp(logits: Tensor) -> Tensor:
    return logits.logsumexp(-1)


def _entropy(logits: Tensor) -> Tensor:
    logprobs = logits - logits.logsumexp(-1, keepdim=True)
    probabilities = logprobs.exp()
    # p log p -> 0 as p -> 0; filling before the product keeps both the value and the gradient free of 0 * inf.
    return -(probabilities * logprobs.masked_fill(probabilities == 0, 0)).sum(-1)


def _by_blocks(function: Callable[[Tensor], Tensor], logits: Tensor) -> Tensor:
    """Reduce the last dimension, [..., V] -> [...], over views of bounded size converted to the accumulation type."""
    if logits.numel() <= BLOCK_ELEMENTS or logits.dim() == 1:
        return function(logits.to(accumulation_dtype(logits.dtype)))
    rows = BLOCK_ELEMENTS * logits.shape[0] // logits.numel()
    if rows == 0:
        return torch.stack([_by_blocks(function, part) for part in logits.unbind(0)])
    return torch.cat([_by_blocks(function, part) for part in logits.split(rows)])


def _check_targets(hidden: Tensor, targets: Tensor) -> None:
    if targets.shape != hidden.shape[:1]:
        raise ValueError(f"targets must be {list(hidden.shape[:1])}, not {list(targets.shape)}")


def _error_of(exponentials: Tensor, index: Tensor, total: Tensor | float) -> Tensor:
    """total * (softmax - onehot(target)) from total * softmax, [n, V] in place; index and total are [n, 1].

    Subtracting the target before rounding to the head's type keeps the gradient of confident tokens accurate.
    """
    return exponentials.scatter_add_(1, index, torch.zeros_like(index, dtype=exponentials.dtype) - total)


def _values(
    head: LinearHead, hidden: Tensor, targets: Tensor, with_entropy: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Log-probabilities, logsumexps and, when asked for, entropies of all rows; each [N]."""
    dtype = accumulation_dtype(head.weight.dtype)
    logprobs = hidden.new_empty(targets.shape, dtype=dtype)
    normalizers = torch.empty_like(logprobs)
    entropies = torch.empty_like(logprobs) if with_entropy else None
    for rows, logits, _ in head.chunks(hidden):
        chosen = logits.gather(1, targets[rows, None])
        peak = logits.amax(1, keepdim=True)
        logits.sub_(peak)
        if entropies is None:
            total = logits.exp_().sum(1, keepdim=True)
        else:
            exponentials = logits.exp()
            total = exponentials.sum(1, keepdim=True)
            # -sum p ln p = ln total - sum(e^x x) / total, for x = logits - peak
            entropies[rows] = (total.log() - logits.mul_(exponentials).sum(1, keepdim=True) / total).squeeze(1)
        logprobs[rows] = (chosen - peak - total.log()).squeeze(1)
        normalizers[rows] = (peak + total.log()).squeeze(1)
    return logprobs, normalizers, entropies


class _LinearCrossEntropy(torch.autograd.Function):
    """Value and gradients in one walk over the rows; the backward pass only multiplies by the incoming scalar."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        weights: Tensor | None,
        targets: Tensor,
        settings: HeadSettings,
    ) -> Tensor:
        head = LinearHead(weight, bias, settings)
        needed = ctx.needs_input_grad[:3]
        gradients = HeadGradients(head, hidden, needed)
        nll = hidden.new_empty(targets.shape, dtype=accumulation_dtype(hidden.dtype))
        factors = torch.ones_like(nll) if weights is None else weights.to(nll.dtype)
        for rows, logits, buffer in head.chunks(hidden):
            index = targets[rows, None]
            chosen = logits.gather(1, index)
            slope = head.slope(logits)
            peak = logits.amax(1, keepdim=True)
            total = logits.sub_(peak).exp_().sum(1, keepdim=True)
            nll[rows] = (peak - chosen + total.log()).squeeze(1)
            if any(needed):
                gradients.add(rows, _error_of(logits, index, total), factors[rows, None] / total, slope, buffer)
        ctx.weights_dtype = None if weights is None else weights.dtype
        ctx.save_for_backward(*gradients.results(), nll if ctx.needs_input_grad[3] else None)
        return torch.dot(nll, factors)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, nll = (None if saved is None else saved * grad for saved in ctx.saved_tensors)
        return hidden, weight, bias, None if nll is None else nll.to(ctx.weights_dtype), None, None


class _LinearLogprobs(torch.autograd.Function):
    """Per-row log-probabilities; keeps one logsumexp a row and computes the logits again in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        settings: HeadSettings,
        with_entropy: bool,
    ) -> tuple[Tensor, Tensor | None]:
        logprobs, normalizers, entropies = _values(LinearHead(weight, bias, settings), hidden, targets, with_entropy)
        ctx.save_for_backward(hidden, weight, bias, targets, normalizers)
        ctx.settings = settings
        if entropies is not None:
            ctx.mark_non_differentiable(entropies)
        return logprobs, entropies

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, normalizers = ctx.saved_tensors
        head = LinearHead(weight, bias, ctx.settings)
        gradients = HeadGradients(head, hidden, ctx.needs_input_grad[:3])
        for rows, logits, buffer in head.chunks(hidden):
            slope = head.slope(logits)
            probabilities = logits.sub_(normalizers[rows, None]).exp_()
            error = _error_of(probabilities, targets[rows, None], 1.0)
            gradients.add(rows, error, -grad[rows, None], slope, buffer)
        return *gradients.results(), None, None, None
