"""Divergences between categorical distributions, from logits, and estimates of KL from samples.

For the distributions p (teacher) and q (student) over a vocabulary:

    forward KL          KL(p || q) = sum p ln(p / q)
    reverse KL          KL(q || p)
    Jensen-Shannon      beta KL(p || m) + (1 - beta) KL(q || m),  m = beta p + (1 - beta) q
                        (generalised; Agarwal et al., 2024, "On-Policy Distillation of Language Models", equation 1)
    total variation     1/2 sum |p - q|

All are in nats (total variation has no unit), computed in float32 (float64 for float64 logits), exact for logits of
minus infinity (probability zero), and differentiable with respect to both sets of logits. `temperature` divides both;
Hinton et al. (2015) multiply the result by its square so that gradients keep their size when it changes.

Left out: divergences whose vocabularies differ; those need an alignment of tokens first.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Estimator = Literal["k1", "k2", "k3"]


def forward_kl(
    teacher_logits: Tensor,
    student_logits: Tensor,
    temperature: float = 1.0,
    scale_by_temperature_squared: bool = False,
    mask: Tensor | None = None,
) -> Tensor:
    """KL(teacher || student) at each position: the student must cover whatever the teacher finds likely.

    Args:
        teacher_logits: [..., V].
        student_logits: [..., V].
        temperature: Divides both sets of logits; positive.
        scale_by_temperature_squared: Multiply the result by temperature squared.
        mask: [...], bool or 0/1. Positions not set are skipped: they cost nothing, give 0 and receive no gradient.

    Returns:
        [...], at least 0 up to rounding. The mean over positions that count is `result.sum() / mask.sum()`.

    Raises:
        ValueError: Shapes that differ, or a temperature that is not positive.
    """
    factor = _factor(temperature, scale_by_temperature_squared)
    return _over_positions(_kl, teacher_logits, student_logits, temperature, mask) * factor


def reverse_kl(
    teacher_logits: Tensor,
    student_logits: Tensor,
    temperature: float = 1.0,
    scale_by_temperature_squared: bool = False,
    mask: Tensor | None = None,
) -> Tensor:
    """KL(student || teacher) at each position: the student must avoid whatever the teacher finds unlikely.

    Arguments, result and errors are those of `forward_kl`.
    """
    factor = _factor(temperature, scale_by_temperature_squared)
    return _over_positions(lambda p, q: _kl(q, p), teacher_logits, student_logits, temperature, mask) * factor


def jensen_shannon(
    teacher_logits: Tensor,
    student_logits: Tensor,
    beta: float = 0.5,
    temperature: float = 1.0,
    scale_by_temperature_squared: bool = False,
    mask: Tensor | None = None,
) -> Tensor:
    """Generalised Jensen-Shannon divergence at each position; symmetric and at most ln 2 for beta = 1/2.

    Divided by beta it tends to the forward KL as beta goes to 0, and divided by 1 - beta to the reverse KL as beta goes
    to 1. At 0 and 1 themselves it vanishes for all distributions, so those values are refused.

    Args:
        beta: The teacher's share in the mixture, strictly between 0 and 1. The rest as in `forward_kl`.

    Raises:
        ValueError: beta outside (0, 1); otherwise as in `forward_kl`.
    """
    if not 0 < beta < 1:
        raise ValueError(
            f"beta must lie strictly between 0 and 1, not {beta}; use forward_kl or reverse_kl for the ends"
        )
    log_beta, log_rest = math.log(beta), math.log1p(-beta)

    def divergence(teacher: Tensor, student: Tensor) -> Tensor:
        # logaddexp has no gradient where both are minus infinity; a finite floor still has probability zero.
        floor = torch.finfo(teacher.dtype).min / 4
        teacher, student = teacher.clamp(min=floor), student.clamp(min=floor)
        mixture = torch.logaddexp(teacher + log_beta, student + log_rest)
        return beta * _kl(teacher, mixture) + (1 - beta) * _kl(student, mixture)

    factor = _factor(temperature, scale_by_temperature_squared)
    return _over_positions(divergence, teacher_logits, student_logits, temperature, mask) * factor


def total_variation(
    teacher_logits: Tensor,
    student_logits: Tensor,
    temperature: float = 1.0,
    scale_by_temperature_squared: bool = False,
    mask: Tensor | None = None,
) -> Tensor:
    """Total variation distance at each position, in [0, 1]: the largest difference in the probability of any event.

    Arguments, result and errors are those of `forward_kl`.
    """
    factor = _factor(temperature, scale_by_temperature_squared)
    return _over_positions(_total_variation, teacher_logits, student_logits, temperature, mask) * factor


def estimate_kl(logprobs: Tensor, reference_logprobs: Tensor, estimator: Estimator = "k3") -> Tensor:
    """Estimate KL(policy || reference) from tokens that the policy sampled.

    Source: Schulman (2020), "Approximating KL Divergence". With the log-ratio l = reference - policy of each token:
    k1 = -l (unbiased, high variance, may be negative); k2 = l^2 / 2 (biased, low variance); k3 = e^l - 1 - l (unbiased,
    never negative, unbounded when the reference likes a sampled token much more than the policy does).

    Unbiased refers to the value. Differentiating an estimate does not estimate the gradient of the divergence, except
    for k2, because the samples depend on the policy too.

    Args:
        logprobs: [...], the policy's log-probability of each sampled token.
        reference_logprobs: [...], the reference's log-probability of the same tokens.
        estimator: k1, k2 or k3.

    Returns:
        [...], one estimate a token, in nats.

    Raises:
        ValueError: Shapes that differ or an unknown estimator.
    """
    if logprobs.shape != reference_logprobs.shape:
        raise ValueError(f"shapes differ: {list(logprobs.shape)} and {list(reference_logprobs.shape)}")
    log_ratio = reference_logprobs - logprobs
    match estimator:
        case "k1":
            return -log_ratio
        case "k2":
            return log_ratio.square() / 2
        case "k3":
            return torch.expm1(log_ratio) - log_ratio
    raise ValueError(f"unknown estimator {estimator!r}: use k1, k2 or k3")


def _kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) from log-probabilities [..., V]."""
    probabilities = p.exp()
    # 0 ln(0 / q) = 0; filling the difference before the product keeps the gradient free of 0 * inf as well.
    return (probabilities * (p - q).masked_fill(probabilities == 0, 0)).sum(-1)


def _total_variation(p: Tensor, q: Tensor) -> Tensor:
    return (p.exp() - q.exp()).abs().sum(-1) / 2


def _factor(temperature: float, squared: bool) -> float:
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, not {temperature}")
    return temperature**2 if squared else 1.0


def _over_positions(
    divergence: Callable[[Tensor, Tensor], Tensor],
    teacher_logits: Tensor,
    student_logits: Tensor,
    temperature: float,
    mask: Tensor | None,
) -> Tensor:
    """Apply a divergence of log-probabilities at the positions that count: [..., V], [..., V] -> [...]."""
    if teacher_logits.shape != student_logits.shape:
        raise ValueError(f"logits differ in shape: {list(teacher_logits.shape)} and {list(student_logits.shape)}")
    if mask is not None:
        if mask.shape != teacher_logits.shape[:-1]:
            raise ValueError(f"mask must be {list(teacher_logits.shape[:-1])}, not {list(mask.shape)}")
        mask = mask.bool()
        teacher_logits, student_logits = teacher_logits[mask], student_logits[mask]
    teacher, student = (
        (logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature).log_softmax(-1)
        for logits in (teacher_logits, student_logits)
    )
    values = divergence(teacher, student)
    return values if mask is None else values.new_zeros(mask.shape).masked_scatter(mask, values)
