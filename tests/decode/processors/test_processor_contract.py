"""What every processor promises, for all that are found."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from posttrain.core import catalog
from posttrain.decode.processors import DecodeState

TERMS = catalog.terms("process")
ROWS, VOCABULARY = 4, 50


@pytest.fixture(params=TERMS)
def cls(request: pytest.FixtureRequest) -> Any:
    return catalog.find("process", request.param)


@pytest.fixture
def logits() -> torch.Tensor:
    """Scores with ties, a third of them forbidden; the last row allows one token only."""
    generator = torch.Generator().manual_seed(0)
    scores = (torch.randn(ROWS, VOCABULARY, generator=generator) * 4).round(decimals=1)
    scores[torch.rand(ROWS, VOCABULARY, generator=generator) < 0.33] = -torch.inf
    scores[-1] = -torch.inf
    scores[-1, 7] = -3.0
    return scores


@pytest.fixture
def state() -> DecodeState:
    return DecodeState(
        prompts=[[1, 2, 3], [4], [5, 6], [7, 8]],
        generated=[[9, 10], [11, 12], [9, 9], [7, 7]],
        eos_ids=frozenset({2}),
        max_new_tokens=10,
    )


def test_keeps_shape_type_forbidden_tokens_and_its_input(cls: Any, logits: torch.Tensor, state: DecodeState) -> None:
    before = logits.clone()
    after = cls()(logits, state)
    assert torch.equal(logits, before)
    assert (after.shape, after.dtype) == (logits.shape, torch.float32)
    assert not after.isnan().any()
    assert (after[before == -torch.inf] == -torch.inf).all()


def test_leaves_at_least_one_token(cls: Any, logits: torch.Tensor, state: DecodeState) -> None:
    assert (cls()(logits, state) > -torch.inf).any(-1).all()


def test_neutral_settings_change_nothing(cls: Any, logits: torch.Tensor, state: DecodeState) -> None:
    if cls.neutral is None:
        pytest.skip("it has no neutral settings")
    assert torch.equal(cls(**cls.neutral)(logits, state), logits)


def test_rows_do_not_see_one_another(cls: Any, logits: torch.Tensor, state: DecodeState) -> None:
    together = cls()(logits, state)
    for row in range(ROWS):
        alone = DecodeState(
            prompts=state.prompts[row : row + 1],
            generated=state.generated[row : row + 1],
            eos_ids=state.eos_ids,
            max_new_tokens=state.max_new_tokens,
        )
        torch.testing.assert_close(cls()(logits[row : row + 1], alone)[0], together[row])


def test_survives_the_recipe(cls: Any) -> None:
    processor = cls()
    assert catalog.build("process", catalog.dump(processor)) == processor
