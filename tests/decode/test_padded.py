"""What a padded batch hands to the network, by hand, and what it refuses."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import DynamicCache, LlamaConfig

from posttrain.core.errors import BadRequest
from posttrain.decode.padded import PaddedState


class Body(nn.Module):
    """Writes down its arguments and returns the tokens as hidden states [B, T, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[dict[str, Any]] = []

    def forward(
        self, input_ids: Any, attention_mask: Any, position_ids: Any, past_key_values: Any, use_cache: Any
    ) -> Any:
        return self.note(input_ids, attention_mask=attention_mask, position_ids=position_ids, cache=past_key_values)

    def note(self, input_ids: torch.Tensor, **arguments: Any) -> Any:
        self.calls.append({"input_ids": input_ids, **arguments})
        return SimpleNamespace(last_hidden_state=input_ids[..., None].float())


class RecurrentBody(Body):
    """Takes no positions, as networks that are recurrent throughout."""

    def forward(self, input_ids: Any, attention_mask: Any, cache_params: Any, use_cache: Any) -> Any:  # type: ignore[override]
        return self.note(input_ids, attention_mask=attention_mask, cache=cache_params)


class Forgetful(Body):
    """Takes no cache of the general kind."""

    def forward(self, input_ids: Any, attention_mask: Any) -> Any:  # type: ignore[override]
        return self.note(input_ids, attention_mask=attention_mask)


class Network(nn.Module):
    """What a padded state asks of a transformers model."""

    def __init__(self, body: Body, stateful: bool = False) -> None:
        super().__init__()
        self.base_model = body
        self.weight = nn.Parameter(torch.zeros(1))
        self.config = LlamaConfig(num_hidden_layers=1)
        self._is_stateful = stateful


def given(body: Body, name: str) -> list[list[int]]:
    """An argument of the last call."""
    return body.calls[-1][name].tolist()


def test_prompts_are_padded_on_the_left_and_positions_count_real_tokens() -> None:
    body = Body()
    state = PaddedState(Network(body))  # type: ignore[arg-type]
    hidden = state.prefill([[5, 6, 7], [8]])
    assert hidden.tolist() == [[7.0], [8.0]]  # [B, H], at the last token of each
    assert given(body, "input_ids")[0] == [5, 6, 7]
    assert given(body, "input_ids")[1][2] == 8
    assert given(body, "attention_mask") == [[1, 1, 1], [0, 0, 1]]
    assert given(body, "position_ids")[0] == [0, 1, 2]
    assert given(body, "position_ids")[1][2] == 0
    assert state.step(torch.tensor([[1], [2]])).shape == (2, 1, 1)
    assert given(body, "attention_mask") == [[1, 1, 1, 1], [0, 0, 1, 1]]
    assert given(body, "position_ids") == [[3], [1]]
    state.step(torch.tensor([[1, 2], [3, 4]]))
    assert given(body, "position_ids") == [[4, 5], [2, 3]]
    assert state.lengths == [6, 4]
    caches = [call["cache"] for call in body.calls]
    assert isinstance(caches[0], DynamicCache)
    assert caches[1] is caches[2] is caches[0]


def test_tokens_taken_back_are_masked_where_they_lie() -> None:
    """Row 0 keeps 4 of its 5 tokens, row 1 its first of 3: they end in different columns."""
    body = Body()
    state = PaddedState(Network(body))  # type: ignore[arg-type]
    state.prefill([[5, 6, 7], [8]])
    state.step(torch.tensor([[1, 2], [3, 4]]))
    state.truncate([4, 1])
    assert state.lengths == [4, 1]
    state.step(torch.tensor([[9], [9]]))
    assert given(body, "attention_mask") == [[1, 1, 1, 1, 0, 1], [0, 0, 1, 0, 0, 1]]
    assert given(body, "position_ids") == [[4], [1]]
    state.truncate([5, 1])  # over a hole; a row of its full length stays
    state.step(torch.tensor([[9], [9]]))
    assert given(body, "attention_mask") == [[1, 1, 1, 1, 0, 1, 1], [0, 0, 1, 0, 0, 0, 1]]
    assert given(body, "position_ids") == [[5], [1]]


def test_rows_cannot_join() -> None:
    state = PaddedState(Network(Body()))  # type: ignore[arg-type]
    assert not state.joins
    state.prefill([[5]])
    with pytest.raises(RuntimeError, match="can't take more rows"):
        state.prefill([[6]])


def test_a_recurrent_network_is_told_of_its_inputs_alone() -> None:
    """It sums up its past, so a mask as wide as the past would not fit its inputs."""
    body = RecurrentBody()
    state = PaddedState(Network(body, stateful=True))  # type: ignore[arg-type]
    state.prefill([[5, 6, 7], [8]])
    assert given(body, "attention_mask") == [[1, 1, 1], [0, 0, 1]]
    state.step(torch.tensor([[1], [2]]))
    assert given(body, "attention_mask") == [[1], [1]]
    assert state.lengths == [4, 2]
    with pytest.raises(BadRequest, match="taken back"):
        state.truncate([3, 2])
    assert state.lengths == [4, 2]


def test_a_network_without_the_general_cache_is_refused() -> None:
    with pytest.raises(BadRequest, match="past of a Network"):
        PaddedState(Network(Forgetful()))  # type: ignore[arg-type]


@pytest.mark.parametrize("architecture", ["gemma2", "gpt_oss", "bloom"])
def test_architectures_that_need_it(make_model: Any, architecture: str) -> None:
    """Capped scores, sinks and ALiBi: each row equals the network's own pass over it, windows of 6 tokens included."""
    network = make_model(architecture).network
    rows = [[5, 6, 7, 8, 9, 10, 11, 12, 13, 14], [20, 21], [44, 45, 46, 47, 48]]
    with torch.inference_mode():
        state = PaddedState(network)
        hidden = [state.prefill(rows)]
        state.select([2, 0])
        rows = [rows[2], rows[0]]
        for token in (70, 80):
            hidden.append(state.step(torch.tensor([[token], [token + 1]]))[:, 0])
            rows = [[*row, token + i] for i, row in enumerate(rows)]
        expected = torch.stack(
            [network.base_model(torch.tensor([row]), use_cache=False).last_hidden_state[0, -1] for row in rows]
        )
        torch.testing.assert_close(hidden[-1], expected, atol=2e-4, rtol=1e-4)
