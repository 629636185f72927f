"""Min-p: worked by hand and agreement with transformers."""

from __future__ import annotations

import pytest
import torch

from posttrain.decode.processors import DecodeState
from posttrain.decode.processors.min_p import MinP

NOTHING = DecodeState(prompts=[], generated=[])


def test_by_hand() -> None:
    """A tenth of 0.5 is 0.05: the token that has just that stays, 0.04 goes. A tenth of 0.1 is 0.01: all stay."""
    sure = torch.tensor([[0.5, 0.4, 0.05, 0.04, 0.01]]).log()
    assert (MinP(p=0.1)(sure, NOTHING) > -torch.inf).tolist() == [[True, True, True, False, False]]
    unsure = torch.tensor([[0.1, 0.1, *[0.08] * 10]]).log()
    assert (MinP(p=0.1)(unsure, NOTHING) > -torch.inf).all()


def test_one_keeps_the_most_probable() -> None:
    assert MinP(p=1)(torch.tensor([[1.0, 3.0, 2.0, 3.0]]), NOTHING).tolist() == [[-torch.inf, 3.0, -torch.inf, 3.0]]


@pytest.mark.parametrize("p", [0.02, 0.1, 0.5])
def test_agrees_with_transformers(p: float) -> None:
    from transformers.generation.logits_process import MinPLogitsWarper

    logits = torch.randn(8, 100) * 3
    torch.testing.assert_close(MinP(p=p)(logits, NOTHING), MinPLogitsWarper(p)(None, logits))
