"""Log-probabilities and chunked cross-entropy, against hand-worked numbers and plain float64 PyTorch."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from posttrain.ops import logprobs as module
from posttrain.ops.logprobs import (
    entropy,
    linear_cross_entropy,
    linear_logprobs,
    sequence_logprobs,
    token_logprobs,
)

CASES = [
    {},
    {"with_bias": True},
    {"softcap": 1.5},
    {"scale": 0.25},
    {"with_bias": True, "softcap": 2.0, "scale": 3.0},
]


def problem(dtype: torch.dtype = torch.float64, rows: int = 7, width: int = 5, vocabulary: int = 11) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(rows, width, generator=generator, dtype=torch.float64)
    weight = torch.randn(vocabulary, width, generator=generator, dtype=torch.float64)
    bias = torch.randn(vocabulary, generator=generator, dtype=torch.float64)
    weights = torch.rand(rows, generator=generator, dtype=torch.float64)
    leaves = [tensor.to(dtype).requires_grad_() for tensor in (hidden, weight, bias, weights)]
    return [*leaves, torch.randint(vocabulary, (rows,), generator=generator)]


def plain_logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, softcap: float | None, scale: float) -> Tensor:
    logits = F.linear(hidden, weight, bias) * scale
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


def test_token_logprobs_by_hand() -> None:
    """softmax([ln 1, ln 2, ln 5]) = [1, 2, 5] / 8; a shift by 1000 changes nothing and overflows nothing."""
    logits = torch.tensor([1.0, 2.0, 5.0]).log().expand(2, 3, 3) + torch.tensor([0.0, 1000.0])[:, None, None]
    result = token_logprobs(logits, torch.tensor([[0, 1, 2], [2, 1, 0]]))
    expected = torch.tensor([[1.0, 2.0, 5.0], [5.0, 2.0, 1.0]]).div(8).log()
    torch.testing.assert_close(result, expected, atol=1e-4, rtol=0)  # float32 near 1000 resolves 6e-5


def test_token_logprobs_of_a_masked_logit_is_minus_infinity() -> None:
    assert token_logprobs(torch.tensor([0.0, -math.inf]), torch.tensor(1)) == -math.inf
    assert token_logprobs(torch.tensor([0.0, -math.inf]), torch.tensor(0)) == 0


def test_token_logprobs_refuses_other_shapes() -> None:
    with pytest.raises(ValueError, match="need targets"):
        token_logprobs(torch.zeros(2, 3, 4), torch.zeros(2, 4, dtype=torch.long))


@pytest.mark.parametrize("elements", [1, 20, 35, 1 << 20])
def test_blocks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch, elements: int) -> None:
    """From one row of 11 to all at once, on a view that can't be flattened without a copy."""
    monkeypatch.setattr(module, "BLOCK_ELEMENTS", elements)
    logits = torch.randn(3, 5, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    view = logits[:, :-1].requires_grad_()
    targets = torch.arange(12).view(3, 4) % 11
    reference = view.log_softmax(-1)
    torch.testing.assert_close(token_logprobs(view, targets), reference.gather(-1, targets[..., None])[..., 0])
    torch.testing.assert_close(entropy(view), -(reference.exp() * reference).sum(-1))
    assert torch.autograd.gradcheck(lambda x: (token_logprobs(x, targets), entropy(x)), view)


def test_half_precision_logits_are_summed_in_float32() -> None:
    """512 equal logits have probability 1/512 each; bfloat16 sums of ones would stop at 256."""
    logits = torch.full((1, 512), 3.0, dtype=torch.bfloat16)
    result = token_logprobs(logits, torch.tensor([5]))
    assert result.dtype == torch.float32
    assert result.item() == pytest.approx(-math.log(512), rel=1e-6)
    assert entropy(logits).item() == pytest.approx(math.log(512), rel=1e-6)


def test_sequence_logprobs_by_hand() -> None:
    """Row 1: -1 - 2 = -3, mean -1.5. Row 2: nothing counts, and the NaN under the mask does not leak."""
    logprobs = torch.tensor([[-1.0, -2.0, -9.0], [math.nan, -1.0, -1.0]])
    mask = torch.tensor([[1, 1, 0], [0, 0, 0]])
    assert sequence_logprobs(logprobs, mask).tolist() == [-3.0, 0.0]
    assert sequence_logprobs(logprobs, mask, normalize=True).tolist() == [-1.5, 0.0]


def test_entropy_by_hand() -> None:
    """Uniform over 4: ln 4. One certain token: 0. (1/2, 1/4, 1/4): 1.5 ln 2. Masked tokens do not count."""
    logits = torch.tensor(
        [[0.0, 0.0, 0.0, 0.0], [1000.0, 0.0, 0.0, 0.0], [math.log(2), 0.0, 0.0, -math.inf]], requires_grad=True
    )
    result = entropy(logits)
    torch.testing.assert_close(result, torch.tensor([math.log(4), 0.0, 1.5 * math.log(2)]))
    result.sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("chunk", [1, 3, 100])
@pytest.mark.parametrize("case", CASES)
def test_linear_cross_entropy_equals_the_plain_loss(case: dict, chunk: int, weighted: bool) -> None:
    hidden, weight, bias, weights, targets = problem()
    softcap, scale = case.get("softcap"), case.get("scale", 1.0)
    inputs = [hidden, weight] + [bias] * case.get("with_bias", False) + [weights] * weighted
    nll = F.cross_entropy(
        plain_logits(hidden, weight, bias if case.get("with_bias") else None, softcap, scale), targets, reduction="none"
    )
    expected = (nll * weights).sum() if weighted else nll.sum()
    expected_gradients = torch.autograd.grad(expected * 0.5, inputs)

    def call() -> Tensor:
        return linear_cross_entropy(
            hidden,
            weight,
            targets,
            bias=bias if case.get("with_bias") else None,
            chunk=chunk,
            softcap=softcap,
            scale=scale,
            weights=weights if weighted else None,
        )

    value = call()
    gradients = torch.autograd.grad(value * 0.5, inputs)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradients, expected_gradients)
    with torch.no_grad():
        torch.testing.assert_close(call(), expected.detach())


@pytest.mark.parametrize("chunk", [1, 3, 100])
@pytest.mark.parametrize("case", CASES)
def test_linear_logprobs_equal_the_plain_ones(case: dict, chunk: int) -> None:
    hidden, weight, bias, weights, targets = problem()
    softcap, scale = case.get("softcap"), case.get("scale", 1.0)
    used = bias if case.get("with_bias") else None
    inputs = [hidden, weight] + ([] if used is None else [used])
    logits = plain_logits(hidden, weight, used, softcap, scale)
    expected = logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]
    logprobs, entropies = linear_logprobs(
        hidden, weight, targets, bias=used, chunk=chunk, softcap=softcap, scale=scale, with_entropy=True
    )
    torch.testing.assert_close(logprobs, expected)
    torch.testing.assert_close(entropies, entropy(logits).detach())
    assert not entropies.requires_grad
    coefficients = weights.detach() - 0.5
    torch.testing.assert_close(
        torch.autograd.grad((logprobs * coefficients).sum(), inputs),
        torch.autograd.grad((expected * coefficients).sum(), inputs),
    )
    with torch.no_grad():
        alone = linear_logprobs(hidden, weight, targets, bias=used, chunk=chunk, softcap=softcap, scale=scale)
    torch.testing.assert_close(alone, expected.detach())


def test_gradcheck() -> None:
    hidden, weight, bias, weights, targets = problem(rows=3, width=2, vocabulary=4)
    assert torch.autograd.gradcheck(
        lambda h, w, b, x: linear_cross_entropy(h, w, targets, b, chunk=2, softcap=3.0, weights=x),
        (hidden, weight, bias, weights),
    )
    assert torch.autograd.gradcheck(
        lambda h, w, b: linear_logprobs(h, w, targets, b, chunk=2, softcap=3.0), (hidden, weight, bias)
    )


@pytest.mark.parametrize("frozen", ["hidden", "weight"])
def test_frozen_inputs_get_no_gradient(frozen: str) -> None:
    hidden, weight, _, _, targets = problem()
    (hidden if frozen == "hidden" else weight).requires_grad_(False)
    (linear_cross_entropy(hidden, weight, targets) - linear_logprobs(hidden, weight, targets).sum()).backward()
    assert (hidden.grad is None) == (frozen == "hidden")
    assert (weight.grad is None) == (frozen == "weight")
    assert (weight if frozen == "hidden" else hidden).grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_precision_against_float64(dtype: torch.dtype) -> None:
    """The value is good to the rounding of the logits, gradients to the rounding of their type, for both functions."""
    hidden, weight, _, _, targets = problem(dtype, rows=40, width=16, vocabulary=300)
    exact_hidden, exact_weight = (t.detach().double().requires_grad_() for t in (hidden, weight))
    expected = F.cross_entropy(exact_hidden @ exact_weight.T, targets, reduction="sum")
    expected_gradients = torch.autograd.grad(expected, [exact_hidden, exact_weight])
    step = torch.finfo(dtype).eps
    for value in (
        linear_cross_entropy(hidden, weight, targets, chunk=16),
        -linear_logprobs(hidden, weight, targets, chunk=16).sum(),
    ):
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(expected.item(), rel=max(step, 1e-6))
        for gradient, exact in zip(torch.autograd.grad(value, [hidden, weight]), expected_gradients, strict=True):
            assert gradient.dtype == dtype
            assert (gradient.double() - exact).norm() < 4 * step * exact.norm()


def test_bfloat16_gradient_of_a_confident_token_is_not_drowned_in_rounding() -> None:
    """p = (1 - e, e), e = 1 / (1 + exp(8)): the gradient e (w_1 - w_0) must survive, though bfloat16(1 - e) = 1."""
    hidden = torch.tensor([[1.0, 0.0]], dtype=torch.bfloat16, requires_grad=True)
    weight = torch.tensor([[8.0, 1.0], [0.0, 3.0]], dtype=torch.bfloat16)
    linear_cross_entropy(hidden, weight, torch.tensor([0])).backward()
    share = 1 / (1 + math.exp(8))
    assert hidden.grad is not None
    torch.testing.assert_close(hidden.grad.float(), share * torch.tensor([[-8.0, 2.0]]), rtol=1e-2, atol=0)


def test_loss_by_hand() -> None:
    """Logits ln(1, 2, 5): targets 0 and 2 cost ln 8 and ln 8/5; weights (2, 1) give 2 ln 8 + ln 1.6."""
    hidden = torch.ones(2, 1)
    weight = torch.tensor([[1.0], [2.0], [5.0]]).log()
    value = linear_cross_entropy(hidden, weight, torch.tensor([0, 2]), weights=torch.tensor([2.0, 1.0]))
    assert value.item() == pytest.approx(2 * math.log(8) + math.log(1.6), rel=1e-6)


def test_no_logits_of_all_rows_are_ever_held() -> None:
    """The largest tensor that the forward and backward passes create is one chunk, or the head's gradient."""
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            for tensor in result if isinstance(result, tuple) else (result,):
                if isinstance(tensor, Tensor):
                    largest = max(largest, tensor.numel())
            return result

    hidden, weight, _, _, targets = problem(torch.float32, rows=64, width=2, vocabulary=100)
    with Watch():
        linear_cross_entropy(hidden, weight, targets, chunk=8).backward()
        linear_logprobs(hidden, weight, targets, chunk=8).sum().backward()
    assert largest == 8 * 100


def test_mixed_types_and_autocast() -> None:
    hidden, weight, _, _, targets = problem(torch.float32)
    plain = linear_cross_entropy(hidden, weight, targets)
    assert linear_cross_entropy(hidden.bfloat16(), weight, targets).item() == pytest.approx(plain.item(), rel=2e-2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = linear_cross_entropy(hidden, weight, targets)
    rounded = linear_cross_entropy(hidden.bfloat16(), weight.bfloat16(), targets)
    assert value.item() == rounded.item() != plain.item()
    value.backward()
    assert hidden.grad is not None
    assert hidden.grad.dtype == torch.float32


def test_no_rows() -> None:
    hidden, weight, _, _, _ = problem()
    targets = torch.zeros(0, dtype=torch.long)
    value = linear_cross_entropy(hidden[:0], weight, targets)
    value.backward()
    assert value.item() == 0
    assert weight.grad is not None
    assert not weight.grad.any()
    assert linear_logprobs(hidden[:0], weight, targets).shape == (0,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": torch.zeros(4, 3)}, "do not fit"),
        ({"targets": torch.zeros(3, dtype=torch.long)}, "targets must be"),
        ({"bias": torch.zeros(5)}, "bias must be"),
        ({"chunk": 0}, "chunk"),
        ({"softcap": 0.0}, "softcap"),
        ({"weights": torch.zeros(3)}, "weights must be"),
    ],
)
def test_refusals(change: dict, message: str) -> None:
    arguments = {"hidden": torch.zeros(2, 2), "weight": torch.zeros(4, 2), "targets": torch.zeros(2, dtype=torch.long)}
    with pytest.raises(ValueError, match=message):
        linear_cross_entropy(**(arguments | change))
