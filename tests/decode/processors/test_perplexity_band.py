"""The band by hand on three tokens, and its promise on random distributions."""

from __future__ import annotations

import math

import pytest
import torch

from posttrain.core.errors import BadRequest
from posttrain.decode.processors import DecodeState
from posttrain.decode.processors.perplexity_band import PerplexityBand

STATE = DecodeState(prompts=[[]] * 64, generated=[[]] * 64)
HALVES = torch.tensor([[0.5, 0.25, 0.25]]).log()  # S(1) = 1.5 ln 2, a perplexity of 2.83


def after(**settings: float | None) -> list[float]:
    found: list[float] = PerplexityBand(**settings)(HALVES, STATE).softmax(-1)[0].tolist()
    return found


def test_too_surprising_is_cooled() -> None:
    """For 2^1.25 the first token must have q with q + 2 (1 - q) = 1.25: 3/4, at b = log2 6."""
    assert after(low=1, high=2**1.25) == pytest.approx([0.75, 0.125, 0.125], abs=2e-4)


def test_too_plain_is_heated_as_far_as_allowed() -> None:
    """For 2^1.6 it is 0.4, at b = log2 4/3, a temperature of 2.41; at most 1.5 gives 1 / (1 + 2 · 2^(-2/3))."""
    assert after(low=2**1.6, high=None, hottest=3) == pytest.approx([0.4, 0.3, 0.3], abs=2e-4)
    first = 1 / (1 + 2 * 2 ** (-2 / 3))
    assert after(low=2**1.6, high=None) == pytest.approx([first, (1 - first) / 2, (1 - first) / 2], abs=1e-5)


def test_inside_nothing_changes() -> None:
    assert torch.equal(PerplexityBand(low=2, high=4)(HALVES, STATE), HALVES)


def test_where_no_temperature_is_low_enough_the_likeliest_is_left() -> None:
    """Its own surprisal is ln 2, above ln 1.9."""
    assert after(low=1, high=1.9) == [1, 0, 0]


def test_expected_perplexities_end_up_in_the_band() -> None:
    logits = torch.randn(60, 500, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.1, 8, 60)[:, None]
    logits[:, ::7] = -torch.inf
    logprobs = logits.log_softmax(-1)
    shares = PerplexityBand(low=5, high=40, hottest=50)(logits, STATE).softmax(-1)
    expected = -(shares * logprobs.masked_fill(shares == 0, 0)).sum(-1)
    reachable = -logprobs.amax(-1) < math.log(40)
    assert 0 < reachable.sum() <= 60
    assert (expected[reachable] > math.log(5) - 2e-4).all() and (expected[reachable] < math.log(40) + 2e-4).all()
    before = -(logprobs.exp() * logprobs.masked_fill(logprobs.isinf(), 0)).sum(-1)
    assert (before > math.log(40)).any() and (before < math.log(5)).any()


def test_ends_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(BadRequest, match="low 9 is above high 3"):
        PerplexityBand.parse({"low": 9, "high": 3})
