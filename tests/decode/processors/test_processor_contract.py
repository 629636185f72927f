"""What every processor promises, for all that are found."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from posttrain.core import catalog
from posttrain.core.errors import BadRequest
from posttrain.decode.processors import DecodeState
from tiny_models import make_tiny_tokenizer

TERMS = catalog.terms("process")
ROWS, VOCABULARY = 4, 300
TOKENIZER = make_tiny_tokenizer()

# What must be set of processors that can't do without.
REQUIRED: dict[str, dict[str, Any]] = {
    "grammar": {"lark": "start: /(?s:.*)/"},
    "regex": {"pattern": "(?s:.*)"},
}


@pytest.fixture(params=TERMS)
def cls(request: pytest.FixtureRequest) -> Any:
    return catalog.find("process", request.param)


@pytest.fixture
def processor(cls: Any) -> Any:
    """With its default settings."""
    try:
        return cls(**REQUIRED.get(catalog.term_of(cls), {}))
    except BadRequest as refusal:
        if "pip install" not in str(refusal):
            raise
        pytest.skip(str(refusal))  # an optional package isn't there


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
        # 61 and 4 are [ and ", so that what follows may be JSON too.
        generated=[[61, 4, 9, 10], [61, 4, 11, 12], [61, 4, 9, 9], [61, 4, 7, 7]],
        eos_ids=frozenset({2}),
        max_new_tokens=10,
        tokenizer=TOKENIZER,
    )


def test_keeps_shape_type_forbidden_tokens_and_its_input(
    processor: Any, logits: torch.Tensor, state: DecodeState
) -> None:
    before = logits.clone()
    after = processor(logits, state)
    assert torch.equal(logits, before)
    assert (after.shape, after.dtype) == (logits.shape, torch.float32)
    assert not after.isnan().any()
    assert (after[before == -torch.inf] == -torch.inf).all()


def test_leaves_at_least_one_token(processor: Any, logits: torch.Tensor, state: DecodeState) -> None:
    assert (processor(logits, state) > -torch.inf).any(-1).all()


def test_neutral_settings_change_nothing(cls: Any, logits: torch.Tensor, state: DecodeState) -> None:
    if cls.neutral is None:
        pytest.skip("it has no neutral settings")
    assert torch.equal(cls(**cls.neutral)(logits, state), logits)


def test_rows_do_not_see_one_another(processor: Any, logits: torch.Tensor, state: DecodeState) -> None:
    together = processor(logits, state)
    for row in range(ROWS):
        place = slice(row, row + 1)
        alone = replace(state, prompts=state.prompts[place], generated=state.generated[place])
        torch.testing.assert_close(processor(logits[row : row + 1], alone)[0], together[row])


def test_survives_the_recipe(processor: Any) -> None:
    assert catalog.build("process", catalog.dump(processor)) == processor
