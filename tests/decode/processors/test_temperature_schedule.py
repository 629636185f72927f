"""Temperature schedules by hand, and their place in a text."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from posttrain.core.errors import BadRequest
from posttrain.decode.generation import generate
from posttrain.decode.processors import DecodeState, LogitsProcessor
from posttrain.decode.processors.temperature_schedule import TemperatureSchedule
from posttrain.decode.search.sampling import Sampling

# From 2 to 0.5 at p = 0, 1/4, 1/2, 3/4, 1. Cosine: 0.5 + 0.75 (1 + cos πp), cos(π/4) = 0.70711. Exponential:
# 2 · 0.25^p, 0.25^(1/4) = 0.70711.
EXPECTED = {
    "linear": [2, 1.625, 1.25, 0.875, 0.5],
    "cosine": [2, 1.78033, 1.25, 0.71967, 0.5],
    "exponential": [2, 1.41421, 1, 0.70711, 0.5],
}


@pytest.mark.parametrize("shape", EXPECTED)
def test_by_hand(shape: Any) -> None:
    """Scores [1, 0] divided by τ are [1 / τ, 0]; after the last token the end stays."""
    schedule = TemperatureSchedule(start=2, end=0.5, shape=shape, tokens=5)
    rows = [[7] * length for length in (0, 1, 2, 3, 4, 9)]
    found = schedule(torch.tensor([[1.0, 0.0]] * 6), DecodeState(prompts=[[1]] * 6, generated=rows))
    expected = [*EXPECTED[shape], 0.5]
    assert (1 / found[:, 0]).tolist() == pytest.approx(expected, rel=1e-5)
    assert found[:, 1].tolist() == [0] * 6


def test_it_may_rise() -> None:
    assert TemperatureSchedule(start=0.5, end=2, shape="exponential").temperature(0.5) == pytest.approx(1)


def test_the_way_is_as_long_as_the_text_may_get() -> None:
    """Of three tokens the first has the start, the second the middle, the third the end; of one the first has it."""
    schedule = TemperatureSchedule(start=2, end=1)
    logits = torch.ones(3, 1)
    state = DecodeState(prompts=[[1]] * 3, generated=[[], [1], [1, 2]], max_new_tokens=3)
    assert (1 / schedule(logits, state)[:, 0]).tolist() == pytest.approx([2, 1.5, 1])
    once = DecodeState(prompts=[[1]], generated=[[]], max_new_tokens=1)
    assert float(1 / schedule(logits[:1], once)) == pytest.approx(2)
    with pytest.raises(BadRequest, match="how long the text may get"):
        schedule(logits[:1], DecodeState(prompts=[[1]], generated=[[]]))


def test_in_a_search(lively: Any) -> None:
    """A text that is cold from the third token on ends as the greedy text does from there."""
    seen: list[float] = []

    class Watch(LogitsProcessor):
        def __call__(self, logits: torch.Tensor, state: DecodeState) -> torch.Tensor:
            after = TemperatureSchedule(start=5, end=0.1, tokens=3)(logits, state)
            seen.append(float(logits[0, 0] / after[0, 0]))
            return after

    generate(lively, ["The dog"], search=Sampling(), processors=[Watch()], max_new_tokens=5, ignore_eos=True)
    assert seen == pytest.approx([5, 2.55, 0.1, 0.1, 0.1], rel=1e-4)


@pytest.mark.parametrize("settings", [{"start": 0}, {"end": float("inf")}, {"tokens": 0}, {"shape": "sine"}])
def test_refuses(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TemperatureSchedule(**settings)
