"""EDT by hand and in double precision."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError

from posttrain.decode.processors import DecodeState
from posttrain.decode.processors.entropy_temperature import EntropyTemperature

NOTHING = DecodeState(prompts=[], generated=[])


def test_by_hand() -> None:
    """N = 0.8, θ = 1, T0 = 1. Two equal tokens: H = ln 2, T = 0.8^(1 / ln 2) = e^(log2 0.8) = e^-0.32193 = 0.72475.
    Four: H = 2 ln 2, T = e^-0.16096 = 0.85133. One: H = 0, T = 0."""
    infinite = -torch.inf
    logits = torch.tensor([[1.0, 1.0, infinite, infinite], [2.0, 2.0, 2.0, 2.0], [infinite, 3.0, infinite, infinite]])
    processor = EntropyTemperature(theta=1)
    assert processor.temperatures(logits).tolist() == pytest.approx([0.72475, 0.85133, 0], abs=1e-5)
    found = processor(logits, NOTHING)
    assert found[0, 0] == pytest.approx(1 / 0.72475, rel=1e-5)
    assert found[2].tolist() == [infinite, 3.0, infinite, infinite]


def test_against_double_precision() -> None:
    logits = torch.randn(5, 11, generator=torch.Generator().manual_seed(3)) * 3
    found = EntropyTemperature(ceiling=0.9, theta=0.3, base=0.7)(logits, NOTHING)
    for row, scaled in zip(logits.double().tolist(), found.tolist()):
        total = sum(map(math.exp, row))
        entropy = -sum(math.exp(z) / total * (z - math.log(total)) for z in row)
        temperature = 0.9 * 0.7 ** (0.3 / entropy)
        assert scaled == pytest.approx([z / temperature for z in row], rel=1e-4, abs=1e-5)


def test_it_rises_with_entropy_between_the_bounds() -> None:
    """Scores [s, 0, 0, 0] have less entropy the larger s is."""
    logits = torch.tensor([[s, 0.0, 0.0, 0.0] for s in (40.0, 10.0, 5.0, 2.0, 1.0, 0.0)])
    found = EntropyTemperature(ceiling=1.5, theta=2, floor=0.2).temperatures(logits).tolist()
    assert found == sorted(found)
    assert found[0] == pytest.approx(0.2)
    assert 0.2 < found[3] < found[5] < 1.5


def test_without_theta_it_is_a_temperature() -> None:
    logits = torch.randn(2, 5)
    torch.testing.assert_close(EntropyTemperature(ceiling=0.5, theta=0)(logits, NOTHING), logits / 0.5)


def test_refuses() -> None:
    with pytest.raises(ValidationError, match="floor 2 is above ceiling 1"):
        EntropyTemperature(floor=2)
    with pytest.raises(ValidationError):
        EntropyTemperature(base=1)
