"""The contract of `State`, for every way of running a network, against passes over whole rows without a cache."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from posttrain.decode.packed import PackedState
from posttrain.decode.padded import PaddedState
from posttrain.decode.state import State
from posttrain.models.forward import body

STATES = [PackedState, PaddedState]


def reference(network: Any, row: list[int], last: int = 1) -> torch.Tensor:
    """Hidden states of the last tokens of one row by itself, [last, H]."""
    return body(network)(torch.tensor([row]), use_cache=False).last_hidden_state[0, -last:]


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)


def test_every_state_is_tested() -> None:
    assert set(STATES) == set(State.__subclasses__())


def test_a_state_must_know_all_verbs() -> None:
    assert State.__abstractmethods__ == {"prefill", "step", "select", "truncate"}


@pytest.mark.parametrize("kind", STATES)
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("seed", [0, 1])
def test_any_sequence_of_verbs(make_model: Any, kind: Any, architecture: str, seed: int) -> None:
    """Random steps of 1 to 3 tokens, selections and truncations; beside them the rows as plain lists."""
    network = make_model(architecture).network
    draw = random.Random(seed)
    rows = [[draw.randrange(300) for _ in range(draw.randint(1, 9))] for _ in range(3)]
    with torch.inference_mode():
        state = kind(network)
        assert state.rows == 0
        close(state.prefill(rows, every=True), torch.cat([reference(network, row, len(row)) for row in rows]))
        for _ in range(8):
            verb = draw.choice(["select", "truncate", "join"])
            if verb == "select":
                order = [draw.randrange(len(rows)) for _ in range(draw.randint(1, 4))]
                state.select(order)
                rows = [list(rows[i]) for i in order]
            elif verb == "truncate":
                lengths = [draw.randint(max(1, len(row) - 3), len(row) + 2) for row in rows]
                state.truncate(lengths)  # a length beyond the row leaves it as it is
                rows = [row[:length] for row, length in zip(rows, lengths)]
            elif kind.joins:
                fresh = [[draw.randrange(300) for _ in range(draw.randint(1, 5))]]
                close(state.prefill(fresh), reference(network, fresh[0]))
                rows += fresh
            assert (state.rows, state.lengths) == (len(rows), [len(row) for row in rows])
            count = draw.randint(1, 3)
            new = torch.tensor([[draw.randrange(300) for _ in range(count)] for _ in rows])
            hidden = state.step(new)
            rows = [row + tokens for row, tokens in zip(rows, new.tolist())]
            close(hidden, torch.stack([reference(network, row, count) for row in rows]))
