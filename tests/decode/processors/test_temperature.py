"""Temperature: worked by hand, its limits, and agreement with transformers."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError

from posttrain.decode.processors import DecodeState
from posttrain.decode.processors.temperature import Temperature

NOTHING = DecodeState(prompts=[], generated=[])
LOGITS = torch.tensor([[2.0, 1.0, 0.0, -torch.inf]])


def probabilities(temperature: float) -> torch.Tensor:
    return Temperature(temperature=temperature)(LOGITS, NOTHING).softmax(-1)[0]


def test_by_hand() -> None:
    """τ = 0.5 doubles the scores: e^4 : e^2 : e^0 = 54.598 : 7.389 : 1, of 62.987."""
    torch.testing.assert_close(probabilities(0.5), torch.tensor([0.8668, 0.1173, 0.0159, 0.0]), atol=5e-5, rtol=0)


def test_zero_is_the_first_of_the_most_probable() -> None:
    logits = torch.tensor([[1.0, 3.0, 3.0], [-torch.inf, -9.0, -8.0]])
    for temperature in (0.0, 1e-30):
        kept = Temperature(temperature=temperature)(logits, NOTHING)
        assert kept.tolist() == [[-torch.inf, 3.0, -torch.inf], [-torch.inf, -torch.inf, -8.0]]


def test_high_is_uniform_over_what_is_allowed() -> None:
    torch.testing.assert_close(probabilities(1e6), torch.tensor([1 / 3, 1 / 3, 1 / 3, 0]), atol=1e-5, rtol=0)


def test_entropy_rises() -> None:
    entropies = [float(torch.special.entr(probabilities(t)).sum()) for t in (0.0, 0.1, 0.3, 0.7, 1.0, 1.5, 3.0, 10.0)]
    assert entropies == sorted(set(entropies))


def test_smallest_temperatures_do_not_overflow() -> None:
    logits = torch.tensor([[3e4, 3e4 - 1, -3e4]])
    assert Temperature(temperature=1e-6)(logits, NOTHING).softmax(-1).tolist() == [[1.0, 0.0, 0.0]]


def test_agrees_with_transformers() -> None:
    from transformers.generation.logits_process import TemperatureLogitsWarper

    logits = torch.randn(3, 40)
    torch.testing.assert_close(
        Temperature(temperature=0.3)(logits, NOTHING), TemperatureLogitsWarper(0.3)(None, logits)
    )


@pytest.mark.parametrize("temperature", [-0.1, float("inf"), float("nan")])
def test_refuses(temperature: float) -> None:
    with pytest.raises(ValidationError):
        Temperature(temperature=temperature)


def test_properties_in_double_precision() -> None:
    """Against softmax(z / τ) in Python's own arithmetic, for random scores: probabilities, their order, the limits, and
    an entropy that rises strictly with τ from 0 to ln V."""
    temperatures = [0.02, 0.1, 0.3, 0.7, 1.0, 1.5, 3.0, 10.0, 1e4]
    for seed in range(20):
        logits = torch.randn(7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3
        entropies = []
        for temperature in temperatures:
            highest = max(logits.tolist())
            weights = [math.exp((z - highest) / temperature) for z in logits.tolist()]
            expected = [weight / sum(weights) for weight in weights]
            found = Temperature(temperature=temperature)(logits[None], NOTHING).softmax(-1)[0]
            assert found.dtype == torch.float64
            assert found.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)
            assert found.argsort().tolist() == logits.argsort().tolist() or temperature == temperatures[0]
            entropies.append(-sum(p * math.log(p) for p in expected if p > 0))
        assert entropies == sorted(set(entropies))
        assert entropies[0] < 0.2 and entropies[-1] == pytest.approx(math.log(7), abs=1e-6)
        frozen = Temperature(temperature=0)(logits[None], NOTHING).softmax(-1)[0]
        assert frozen.tolist() == [float(place == int(logits.argmax())) for place in range(7)]
