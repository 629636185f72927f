"""Top-p: worked by hand, agreement with transformers (ties included), and the same nucleus however it is found."""

from __future__ import annotations

import pytest
import torch

from posttrain.decode.processors import DecodeState
from posttrain.decode.processors.top_p import TopP

NOTHING = DecodeState(prompts=[], generated=[])


def kept(probabilities: list[float], p: float) -> list[int]:
    """Ids of the tokens that are kept."""
    logits = torch.tensor([probabilities]).log()
    return (TopP(p=p)(logits, NOTHING)[0] > -torch.inf).nonzero().flatten().tolist()


def test_by_hand() -> None:
    """0.4 + 0.3 = 0.7 isn't 0.75 yet, with 0.15 it is 0.85: the token that crosses p is kept."""
    assert kept([0.1, 0.4, 0.05, 0.3, 0.15], 0.75) == [1, 3, 4]


@pytest.mark.parametrize(
    ("p", "count"), [(0.01, 1), (0.5, 1), (0.51, 2), (0.8, 2), (0.81, 3), (0.95, 3), (0.96, 4), (0.9999, 4)]
)
def test_a_sum_that_is_exactly_p_is_enough(p: float, count: int) -> None:
    """Sums 0.5, 0.8, 0.95, 1.0: rounding in float32 must not ask for one token more."""
    assert kept([0.5, 0.3, 0.15, 0.05], p) == list(range(count))


def test_ties_at_the_edge() -> None:
    """Four equal tokens, two suffice; of equals the lowest ids stay."""
    assert kept([0.25, 0.25, 0.25, 0.25], 0.5) == [0, 1]
    assert kept([0.25, 0.25, 0.25, 0.25], 0.6) == [0, 1, 2]
    assert kept([0.1, 0.2, 0.4, 0.2, 0.1], 0.55) == [1, 2]


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("decimals", [1, 6])
def test_agrees_with_transformers(p: float, decimals: int) -> None:
    from transformers.generation.logits_process import TopPLogitsWarper

    generator = torch.Generator().manual_seed(4)
    logits = (torch.randn(16, 700, generator=generator) * 3).round(decimals=decimals)  # with one decimal, many ties
    logits[:, ::7] = -torch.inf
    ours, theirs = TopP(p=p)(logits, NOTHING), TopPLogitsWarper(p)(None, logits)
    # Which of equal tokens stay is left to an unstable sort there: the kept scores agree, and so does their number.
    assert torch.equal(ours.sort(-1).values, theirs.sort(-1).values)
    if decimals == 6:
        assert torch.equal(ours, theirs)


def test_rows_with_wide_and_narrow_nuclei() -> None:
    """A flat row over 1000 tokens needs 900 of them, a peaked one just one; neither changes the other's outcome."""
    flat = torch.linspace(0, 1e-3, 1000)
    peaked = torch.zeros(1000)
    peaked[5] = 50.0
    result = TopP(p=0.9)(torch.stack([flat, peaked]), NOTHING) > -torch.inf
    assert int(result[1].sum()) == 1
    assert bool(result[1, 5])
    assert torch.equal(result[0], TopP(p=0.9)(flat[None], NOTHING)[0] > -torch.inf)
    assert int(result[0].sum()) == pytest.approx(900, abs=1)
