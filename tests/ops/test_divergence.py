"""Divergences on two-point distributions worked by hand, and against torch.distributions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from posttrain.ops.divergence import estimate_kl, forward_kl, jensen_shannon, reverse_kl, total_variation

# Teacher p = (3/4, 1/4), student q = (1/2, 1/2), mixture m = (5/8, 3/8).
TEACHER = torch.tensor([3.0, 1.0], dtype=torch.float64).log()
STUDENT = torch.zeros(2, dtype=torch.float64)
FORWARD = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
REVERSE = 0.5 * math.log(2 / 3) + 0.5 * math.log(2)
TEACHER_TO_MIXTURE = 0.75 * math.log(6 / 5) + 0.25 * math.log(2 / 3)
STUDENT_TO_MIXTURE = 0.5 * math.log(4 / 5) + 0.5 * math.log(4 / 3)

ALL = [forward_kl, reverse_kl, jensen_shannon, total_variation]


def random_pair(*shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(*shape, dtype=torch.float64, generator=generator) * 2,
        torch.randn(*shape, dtype=torch.float64, generator=generator) * 2,
    )


def test_by_hand() -> None:
    assert forward_kl(TEACHER, STUDENT).item() == pytest.approx(FORWARD)
    assert forward_kl(TEACHER, STUDENT).item() == pytest.approx(0.130812, abs=1e-6)
    assert reverse_kl(TEACHER, STUDENT).item() == pytest.approx(REVERSE)
    assert reverse_kl(TEACHER, STUDENT).item() == pytest.approx(0.143841, abs=1e-6)
    assert jensen_shannon(TEACHER, STUDENT).item() == pytest.approx((TEACHER_TO_MIXTURE + STUDENT_TO_MIXTURE) / 2)
    assert total_variation(TEACHER, STUDENT).item() == pytest.approx(0.25)


def test_generalised_jensen_shannon_by_hand() -> None:
    """beta = 1/4: m = p/4 + 3q/4 = (9/16, 7/16)."""
    to_mixture_p = 0.75 * math.log(12 / 9) + 0.25 * math.log(4 / 7)
    to_mixture_q = 0.5 * math.log(8 / 9) + 0.5 * math.log(8 / 7)
    expected = to_mixture_p / 4 + to_mixture_q * 3 / 4
    assert jensen_shannon(TEACHER, STUDENT, beta=0.25).item() == pytest.approx(expected)


def test_limits_of_jensen_shannon() -> None:
    teacher, student = random_pair(5, 7)
    small = 1e-6
    torch.testing.assert_close(
        jensen_shannon(teacher, student, beta=small) / small, forward_kl(teacher, student), rtol=1e-3, atol=0
    )
    torch.testing.assert_close(
        jensen_shannon(teacher, student, beta=1 - small) / small, reverse_kl(teacher, student), rtol=1e-3, atol=0
    )


def test_temperature_by_hand() -> None:
    """Logits (ln 9, 0) at T = 2 are (ln 3, 0), the teacher above; the squared temperature multiplies by 4."""
    hot = 2 * TEACHER
    assert forward_kl(hot, STUDENT, temperature=2).item() == pytest.approx(FORWARD)
    assert forward_kl(hot, STUDENT, temperature=2, scale_by_temperature_squared=True).item() == pytest.approx(
        4 * FORWARD
    )
    assert total_variation(hot, STUDENT, 2.0, True).item() == pytest.approx(1.0)


def test_against_torch_distributions() -> None:
    teacher, student = random_pair(4, 3, 9)
    p, q = (torch.distributions.Categorical(logits=logits) for logits in (teacher, student))
    torch.testing.assert_close(forward_kl(teacher, student), torch.distributions.kl_divergence(p, q))
    torch.testing.assert_close(reverse_kl(teacher, student), torch.distributions.kl_divergence(q, p))
    torch.testing.assert_close(total_variation(teacher, student), (p.probs - q.probs).abs().sum(-1) / 2)


@pytest.mark.parametrize("divergence", ALL)
def test_axioms(divergence) -> None:  # type: ignore[no-untyped-def]
    teacher, student = random_pair(20, 6)
    assert (divergence(teacher, student) > 0).all()
    torch.testing.assert_close(divergence(teacher, teacher + 3.0), torch.zeros(20, dtype=torch.float64))
    if divergence in (jensen_shannon, total_variation):
        torch.testing.assert_close(divergence(teacher, student), divergence(student, teacher))
    teacher.requires_grad_()
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda p, q: divergence(p, q, temperature=1.5), (teacher, student))


@pytest.mark.parametrize("divergence", ALL)
def test_mask(divergence) -> None:  # type: ignore[no-untyped-def]
    """Masked positions give exactly 0 and no gradient, even where their logits are NaN."""
    teacher, student = random_pair(2, 3, 4)
    mask = torch.tensor([[1, 0, 1], [0, 1, 1]])
    expected = divergence(teacher, student)
    teacher[0, 1] = math.nan
    student[1, 0] = math.nan
    student.requires_grad_()
    result = divergence(teacher, student, mask=mask)
    torch.testing.assert_close(result, expected * mask)
    result.sum().backward()
    assert student.grad is not None
    assert not student.grad[mask == 0].any()
    assert (student.grad[mask == 1] != 0).all()


@pytest.mark.parametrize("divergence", ALL)
def test_impossible_tokens(divergence) -> None:  # type: ignore[no-untyped-def]
    """A token that neither side allows changes neither the value nor the gradient."""
    blocked = torch.tensor([-math.inf], dtype=torch.float64)
    teacher, student = torch.cat([TEACHER, blocked]), torch.cat([STUDENT, blocked]).requires_grad_()
    value = divergence(teacher, student)
    assert value.item() == pytest.approx(divergence(TEACHER, STUDENT).item())
    value.backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_disjoint_support() -> None:
    """KL is infinite, Jensen-Shannon ln 2, total variation 1."""
    teacher, student = torch.tensor([0.0, -math.inf]), torch.tensor([-math.inf, 0.0])
    assert forward_kl(teacher, student) == math.inf
    assert reverse_kl(teacher, student) == math.inf
    assert jensen_shannon(teacher, student).item() == pytest.approx(math.log(2))
    assert total_variation(teacher, student) == 1


def test_half_precision_is_computed_in_float32() -> None:
    teacher, student = (t.bfloat16() for t in random_pair(3, 50))
    result = forward_kl(teacher, student)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result.double(), forward_kl(teacher.double(), student.double()), rtol=1e-5, atol=1e-6)


def test_estimators_by_hand() -> None:
    """policy 1/2, reference 1/4: l = -ln 2, so k1 = ln 2, k2 = (ln 2)^2 / 2, k3 = 1/2 - 1 + ln 2."""
    policy, reference = torch.tensor([0.5]).log(), torch.tensor([0.25]).log()
    assert estimate_kl(policy, reference, "k1").item() == pytest.approx(math.log(2))
    assert estimate_kl(policy, reference, "k2").item() == pytest.approx(math.log(2) ** 2 / 2)
    assert estimate_kl(policy, reference).item() == pytest.approx(math.log(2) - 0.5)


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_unbiased_estimators_average_to_the_divergence(estimator) -> None:  # type: ignore[no-untyped-def]
    """The expectation over the policy's tokens, taken exactly."""
    policy, reference = random_pair(6)
    logprobs, reference_logprobs = policy.log_softmax(-1), reference.log_softmax(-1)
    expectation = (logprobs.exp() * estimate_kl(logprobs, reference_logprobs, estimator)).sum()
    torch.testing.assert_close(expectation, forward_kl(policy, reference))


def test_k3_is_never_negative_close_to_zero() -> None:
    logprobs = torch.full((1000,), -2.0)
    near = logprobs + torch.linspace(-1e-3, 1e-3, 1000)
    assert (estimate_kl(logprobs, near, "k3") >= 0).all()


def test_gradient_of_k2_is_that_of_the_divergence() -> None:
    """E[grad k2] = grad KL(policy || reference); the gradient of k1 averages to zero instead."""
    policy, reference = random_pair(6)
    policy.requires_grad_()
    probabilities = policy.detach().softmax(-1)
    reference_logprobs = reference.log_softmax(-1)
    (exact,) = torch.autograd.grad(forward_kl(policy, reference), policy)
    gradients = {}
    for estimator in ("k1", "k2"):
        mean = (probabilities * estimate_kl(policy.log_softmax(-1), reference_logprobs, estimator)).sum()
        (gradients[estimator],) = torch.autograd.grad(mean, policy)
    torch.testing.assert_close(gradients["k2"], exact)
    torch.testing.assert_close(gradients["k1"], torch.zeros(6, dtype=torch.float64))


def test_refusals() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        forward_kl(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="mask must be"):
        forward_kl(torch.zeros(2, 3), torch.zeros(2, 3), mask=torch.ones(3))
    with pytest.raises(ValueError, match="temperature"):
        forward_kl(torch.zeros(2, 3), torch.zeros(2, 3), temperature=0)
    for beta in (0.0, 1.0):
        with pytest.raises(ValueError, match="beta"):
            jensen_shannon(torch.zeros(2, 3), torch.zeros(2, 3), beta=beta)
    with pytest.raises(ValueError, match="estimator"):
        estimate_kl(torch.zeros(1), torch.zeros(1), "k4")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="shapes differ"):
        estimate_kl(torch.zeros(1), torch.zeros(2))
