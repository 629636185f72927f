"""Divergences straight from hidden states, against hand-worked numbers and plain float64 PyTorch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from posttrain.ops import divergence
from posttrain.ops import linear_head as machinery
from posttrain.ops.linear_divergence import head_logprobs, linear_divergence

KINDS: list[dict[str, Any]] = [
    {"kind": "forward"},
    {"kind": "reverse"},
    {"kind": "js"},
    {"kind": "js", "mixture": 0.1},
]
HEADS: list[dict[str, Any]] = [
    {},
    {"with_bias": True},
    {"softcap": 1.5},
    {"with_bias": True, "softcap": 2.0, "scale": 3.0},
]


def problem(rows: int = 7, width: int = 5, vocabulary: int = 11) -> tuple[Tensor, ...]:
    """Hidden states, weight, bias and row weights that require gradients, and target logits; float64."""
    generator = torch.Generator().manual_seed(3)
    shapes = [(rows, width), (vocabulary, width), (vocabulary,), (rows,)]
    leaves = [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]
    return *leaves, torch.randn(rows, vocabulary, generator=generator, dtype=torch.float64)


def slices_of(logprobs: Tensor) -> Callable[[slice], Tensor]:
    return lambda rows: logprobs[rows]


def plain(target: Tensor, student: Tensor, kind: str, mixture: float = 0.5) -> Tensor:
    """The definitions, from log-probabilities, with nothing clever: [N]."""
    p, q = target.exp(), student.exp()
    if kind == "forward":
        return (p * (target - student)).sum(-1)
    if kind == "reverse":
        return (q * (student - target)).sum(-1)
    m = mixture * p + (1 - mixture) * q
    return (mixture * p * (target - m.log()) + (1 - mixture) * q * (student - m.log())).sum(-1)


@pytest.mark.parametrize(
    ("kind", "expected", "first"),
    [
        ("forward", math.log(2 / math.sqrt(3)), -1 / 4),
        ("reverse", math.log(27 / 16) / 4, -3 / 16 * math.log(3)),
        ("js", math.log(4 / 3 * 4 / 5) / 4 + math.log(2 / 3) / 8 + math.log(6 / 5) * 3 / 8, 3 / 32 * math.log(5 / 9)),
    ],
)
def test_two_tokens_by_hand(kind: Any, expected: float, first: float) -> None:
    """p = (1/2, 1/2) and q = (1/4, 3/4), the softmax of (0, ln 3).

    KL(p || q) = 1/2 ln 2 + 1/2 ln 2/3 = ln(2/sqrt 3); its gradient is q - p.
    KL(q || p) = 1/4 ln 1/2 + 3/4 ln 3/2 = 1/4 ln 27/16; the gradient of token 1 is q1 q2 (d1 - d2) = 3/16 ln 1/3.
    m = (3/8, 5/8): KL(p || m) = 1/2 ln 4/3 + 1/2 ln 4/5, KL(q || m) = 1/4 ln 2/3 + 3/4 ln 6/5; the gradient of token 1
    is 1/2 q1 q2 (e1 - e2) = 3/32 (ln 2/3 - ln 6/5) = 3/32 ln 5/9. Token 2 always gets the opposite.
    """
    hidden = torch.tensor([[0.0, math.log(3)]], dtype=torch.float64, requires_grad=True)
    target = torch.tensor([[0.5, 0.5]], dtype=torch.float64).log()
    value = linear_divergence(hidden, torch.eye(2, dtype=torch.float64), slices_of(target), kind=kind)
    value.backward()
    assert value.item() == pytest.approx(expected, rel=1e-12)
    assert hidden.grad is not None
    assert hidden.grad[0].tolist() == pytest.approx([first, -first], rel=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("chunk_rows", [1, 3, 100])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_plain_divergence(kind: dict, head: dict, chunk_rows: int, weighted: bool) -> None:
    hidden, weight, bias, row_weights, target_logits = problem()
    softcap, scale, temperature = head.get("softcap"), head.get("scale", 1.0), 1.7
    used = bias if head.get("with_bias") else None
    inputs = [hidden, weight] + ([] if used is None else [used]) + [row_weights] * weighted
    logits = F.linear(hidden, weight, used) * scale
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    target = (target_logits / temperature).log_softmax(-1)
    rows = plain(target, (logits / temperature).log_softmax(-1), **kind)
    expected = (rows * row_weights).sum() if weighted else rows.sum()
    expected_gradients = torch.autograd.grad(expected * 0.5, inputs)

    def call() -> Tensor:
        return linear_divergence(
            hidden,
            weight,
            slices_of(target),
            **kind,
            temperature=temperature,
            bias=used,
            softcap=softcap,
            scale=scale,
            row_weights=row_weights if weighted else None,
            chunk_rows=chunk_rows,
        )

    value = call()
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(torch.autograd.grad(value * 0.5, inputs), expected_gradients)
    with torch.no_grad():
        torch.testing.assert_close(call(), expected.detach())


def test_ends_of_the_mixture() -> None:
    """The generalised Jensen-Shannon divergence over beta tends to the forward KL, over 1 - beta to the reverse."""
    hidden, weight, _, _, target_logits = problem()
    target = slices_of(target_logits.log_softmax(-1))
    small = 1e-6
    for kind, mixture in (("forward", small), ("reverse", 1 - small)):
        limit = linear_divergence(hidden, weight, target, kind=kind)  # type: ignore[arg-type]
        near = linear_divergence(hidden, weight, target, kind="js", mixture=mixture) / small
        torch.testing.assert_close(near, limit, rtol=1e-4, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_agrees_with_the_divergence_of_logits(kind: dict) -> None:
    hidden, weight, _, _, target_logits = problem()
    name, mixture = kind["kind"], kind.get("mixture", 0.5)
    logits = hidden @ weight.t()
    expected = {
        "forward": lambda: divergence.forward_kl(target_logits, logits),
        "reverse": lambda: divergence.reverse_kl(target_logits, logits),
        "js": lambda: divergence.jensen_shannon(target_logits, logits, mixture),
    }[name]()
    value = linear_divergence(hidden, weight, slices_of(target_logits.log_softmax(-1)), **kind)
    torch.testing.assert_close(value, expected.sum())


@pytest.mark.parametrize("kind", KINDS)
def test_vanishes_with_its_gradient_where_both_agree(kind: dict) -> None:
    hidden, weight, *_ = (tensor.detach().float() for tensor in problem())
    hidden.requires_grad_()
    target = (hidden @ weight.t()).log_softmax(-1).detach()
    value = linear_divergence(hidden, weight, slices_of(target), **kind)
    value.backward()
    assert abs(value.item()) < 1e-6
    assert hidden.grad is not None
    assert hidden.grad.abs().max() < 1e-6


@pytest.mark.parametrize("kind", [{"kind": "forward"}, {"kind": "js"}])
def test_impossible_targets(kind: dict) -> None:
    """A teacher that masks tokens gives them probability 0: finite, and equal to the plain sum over the others."""
    hidden, weight, _, _, target_logits = problem()
    target = target_logits.masked_fill(torch.arange(11) > 6, -math.inf).log_softmax(-1)
    student = (hidden @ weight.t()).log_softmax(-1)
    p, q, beta = target.exp(), student.exp(), 0.5
    if kind["kind"] == "forward":
        expected = (p * (target - student))[:, :7].sum()
    else:
        m = beta * p + (1 - beta) * q
        expected = beta * (p * (target - m.log()))[:, :7].sum() + (1 - beta) * (q * (student - m.log())).sum()
    value = linear_divergence(hidden, weight, slices_of(target), **kind)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(torch.autograd.grad(value, hidden), torch.autograd.grad(expected, hidden))


def test_reverse_of_an_impossible_target_is_infinite() -> None:
    hidden, weight, _, _, target_logits = problem()
    target = target_logits.masked_fill(torch.arange(11) > 6, -math.inf).log_softmax(-1)
    with torch.no_grad():
        assert linear_divergence(hidden, weight, slices_of(target), kind="reverse") == math.inf


@pytest.mark.parametrize("kind", KINDS)
def test_extreme_logits_give_no_nan(kind: dict) -> None:
    """float32 logits of ±200: probabilities underflow on both sides, at different tokens."""
    hidden = torch.tensor([[200.0, 0.0, -200.0], [-200.0, 0.0, 200.0]], requires_grad=True)
    target = torch.tensor([[-200.0, 0.0, 150.0], [-200.0, 0.0, 200.0]]).log_softmax(-1)
    value = linear_divergence(hidden, torch.eye(3), slices_of(target), **kind)
    value.backward()
    assert value.isfinite()
    assert hidden.grad is not None
    assert hidden.grad.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck(kind: dict) -> None:
    hidden, weight, bias, row_weights, target_logits = problem(rows=4, width=3, vocabulary=5)
    target = slices_of((target_logits / 2).log_softmax(-1))
    assert torch.autograd.gradcheck(
        lambda h, w, b, r: linear_divergence(
            h, w, target, **kind, temperature=2, bias=b, softcap=2.0, scale=0.5, row_weights=r, chunk_rows=3
        ),
        (hidden, weight, bias, row_weights),
    )


def test_a_frozen_head_costs_no_weight_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same gradient for the hidden states, and no [V, H] gradient is ever made."""
    hidden, weight, _, _, target_logits = problem()
    target = slices_of(target_logits.log_softmax(-1))
    (expected,) = torch.autograd.grad(linear_divergence(hidden, weight, target), hidden)
    made: list[machinery.HeadGradients] = []
    start = machinery.HeadGradients.__init__

    def watched(self: machinery.HeadGradients, *arguments: Any) -> None:
        start(self, *arguments)
        made.append(self)

    monkeypatch.setattr(machinery.HeadGradients, "__init__", watched)
    linear_divergence(hidden, weight, target).detach()
    (gradient,) = torch.autograd.grad(linear_divergence(hidden, weight.detach(), target), hidden)
    assert made[0].weight is not None
    assert made[1].weight is None
    torch.testing.assert_close(gradient, expected)
    with torch.no_grad():
        linear_divergence(hidden, weight, target)
    assert made[2].weight is None
    assert made[2].hidden is None


def test_target_is_asked_once_a_chunk_and_not_written_to() -> None:
    hidden, weight, _, _, target_logits = problem()
    target = target_logits.log_softmax(-1)
    before = target.clone()
    asked: list[tuple[int, int]] = []

    def give(rows: slice) -> Tensor:
        assert not torch.is_grad_enabled()
        asked.append((rows.start, rows.stop))
        return target[rows]

    for kind in KINDS:
        asked.clear()
        linear_divergence(hidden, weight, give, **kind, chunk_rows=3).backward()
        assert asked == [(0, 3), (3, 6), (6, 7)]
        assert torch.equal(target, before)


@pytest.mark.parametrize("kind", KINDS)
def test_no_logits_of_all_rows_are_ever_held(kind: dict) -> None:
    """The largest tensor made is the room for two chunks, or the head's gradient [100, 2]."""
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            for tensor in result if isinstance(result, tuple) else (result,):
                if isinstance(tensor, Tensor):
                    largest = max(largest, tensor.numel())
            return result

    hidden, weight, _, _, target_logits = problem(rows=64, width=2, vocabulary=100)
    target = target_logits.log_softmax(-1)
    with Watch():
        linear_divergence(hidden, weight, lambda rows: target[rows].clone(), **kind, chunk_rows=8).backward()
    assert largest == 2 * 8 * 100


def test_bfloat16_heads_are_summed_in_float32() -> None:
    hidden, weight, _, _, target_logits = problem(rows=9, width=16, vocabulary=50)
    target = slices_of(target_logits.log_softmax(-1).float())
    exact = linear_divergence(hidden.detach().bfloat16().double(), weight.detach().bfloat16().double(), target)
    half = hidden.detach().bfloat16().requires_grad_()
    value = linear_divergence(half, weight.detach().bfloat16(), target)
    value.backward()
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(exact.item(), rel=1e-2)
    assert half.grad is not None
    assert half.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("head", HEADS)
def test_another_head_as_the_target(head: dict) -> None:
    """Log-probabilities of a slice; against itself a head has no divergence."""
    hidden, weight, bias, *_ = (tensor.detach() for tensor in problem())
    softcap, scale = head.get("softcap"), head.get("scale", 1.0)
    used = bias if head.get("with_bias") else None
    logits = F.linear(hidden, weight, used) * scale
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    options = {"temperature": 1.7, "bias": used, "softcap": softcap, "scale": scale}
    target = head_logprobs(hidden, weight, **options)
    torch.testing.assert_close(target(slice(2, 5)), (logits / 1.7).log_softmax(-1)[2:5])
    assert linear_divergence(hidden, weight, target, chunk_rows=3, **options).item() == pytest.approx(0, abs=1e-12)
    with pytest.raises(ValueError, match="temperature must be positive"):
        head_logprobs(hidden, weight, temperature=-1.0)


def test_no_rows() -> None:
    value = linear_divergence(torch.zeros(0, 3, requires_grad=True), torch.zeros(4, 3), slices_of(torch.zeros(0, 4)))
    assert value == 0
    value.backward()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "sideways"}, "unknown kind"),
        ({"kind": "js", "mixture": 1.0}, "strictly between 0 and 1"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"softcap": 0.0}, "softcap must be positive"),
        ({"chunk_rows": 0}, "chunk must be at least 1"),
        ({"row_weights": torch.ones(2)}, "row_weights must be"),
        ({"bias": torch.ones(2)}, "bias must be"),
        ({"target_logprobs": lambda rows: torch.zeros(1, 3)}, "the target's rows must be"),
    ],
)
def test_refusals(change: dict, message: str) -> None:
    arguments = {"target_logprobs": lambda rows: torch.zeros(3, 4), **change}
    with pytest.raises(ValueError, match=message):
        linear_divergence(torch.zeros(3, 5), torch.zeros(4, 5), **arguments)
