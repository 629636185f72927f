"""Locally typical sampling: worked by hand, agreement with transformers, large vocabularies."""

from __future__ import annotations

import pytest
import torch

from posttrain.decode.processors import DecodeState
from posttrain.decode.processors.typical import Typical

NOTHING = DecodeState(prompts=[], generated=[])


def kept(probabilities: list[float], p: float) -> list[int]:
    logits = torch.tensor([probabilities]).log()
    return (Typical(p=p)(logits, NOTHING)[0] > -torch.inf).nonzero().flatten().tolist()


def test_by_hand() -> None:
    """p = (0.5, 0.2, 0.2, 0.1): H = 0.5 ln 2 + 0.4 ln 5 + 0.1 ln 10 = 0.3466 + 0.6438 + 0.2303 = 1.2206.

    |ln 2 - H| = 0.5275, |ln 5 - H| = 0.3888 twice, |ln 10 - H| = 1.0820. So the two of 0.2 come first, together 0.4;
    then the most probable one, 0.9; then the rest.
    """
    probabilities = [0.5, 0.2, 0.2, 0.1]
    assert kept(probabilities, 0.1) == [1, 2]  # equally near: both are kept
    assert kept(probabilities, 0.4) == [1, 2]
    assert kept(probabilities, 0.41) == [0, 1, 2]
    assert kept(probabilities, 0.9) == [0, 1, 2]
    assert kept(probabilities, 0.91) == [0, 1, 2, 3]
    assert kept([0.0, 1.0, 0.0], 0.5) == [1]


@pytest.mark.parametrize("p", [0.1, 0.5, 0.95])
@pytest.mark.parametrize("words", [40, 3000])
def test_agrees_with_transformers(p: float, words: int) -> None:
    from transformers.generation.logits_process import TypicalLogitsWarper

    logits = torch.randn(8, words, generator=torch.Generator().manual_seed(words)) * 2
    logits[:, ::7] = -torch.inf
    torch.testing.assert_close(Typical(p=p)(logits, NOTHING), TypicalLogitsWarper(p)(None, logits))
