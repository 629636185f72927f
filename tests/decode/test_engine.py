"""The engine's verbs, packed and padded, against passes over whole sequences without a cache."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from posttrain.core.errors import BadRequest
from posttrain.decode.engine import Engine
from posttrain.models.forward import body, vocabulary_head

PROMPTS = [[5, 6, 7, 8, 9, 10, 11, 12, 13, 14], [20, 21], [44, 45, 46, 47, 48, 49, 50]]


def reference(model: Any, tokens: list[int], last: int = 1) -> torch.Tensor:
    """Logits at the last positions, [last, V], from one pass without a cache."""
    with torch.no_grad():
        return model.network(torch.tensor([tokens]), use_cache=False).logits[0, -last:].float()


def close(actual: torch.Tensor, expected: list[torch.Tensor]) -> None:
    torch.testing.assert_close(actual, torch.cat(expected), atol=2e-4, rtol=1e-4)


@pytest.fixture(params=["llama", "mistral", "gpt2"])
def model(request: pytest.FixtureRequest, make_model: Any) -> Any:
    return make_model(request.param)


@pytest.mark.parametrize("padded", [False, True])
def test_prefill_and_steps_of_one_and_several_tokens(model: Any, padded: bool) -> None:
    engine = Engine(model, padded=padded)
    rows = [list(prompt) for prompt in PROMPTS]
    with engine.running():
        state, output = engine.prefill(rows)
        close(output.logits, [reference(model, row) for row in rows])
        for token in (70, 80, 90):
            rows = [[*row, token + i] for i, row in enumerate(rows)]
            output = engine.step(state, [row[-1] for row in rows])
            close(output.logits, [reference(model, row) for row in rows])
        more = torch.tensor([[100, 101, 102], [103, 104, 105], [106, 107, 108]])
        output = engine.step(state, more)
        rows = [row + new for row, new in zip(rows, more.tolist())]
        assert output.logits.shape == (3, 3, 300)
        close(output.logits.flatten(0, 1), [reference(model, row, last=3) for row in rows])
        assert state.lengths == [len(row) for row in rows]


@pytest.mark.parametrize("padded", [False, True])
def test_select_drops_repeats_and_reorders(model: Any, padded: bool) -> None:
    engine = Engine(model, padded=padded)
    with engine.running():
        state, _ = engine.prefill(PROMPTS)
        for rows in ([2, 0, 0, 1, 2], [4, 1, 3], [1, 0], [1]):
            before = state.lengths
            state.select(rows)
            assert state.lengths == [before[row] for row in rows]
        # [2, 0, 0, 1, 2] -> its rows 4, 1, 3: prompts 2, 0, 1 -> prompts 0, 2 -> prompt 2
        output = engine.step(state, [99])
        close(output.logits, [reference(model, [*PROMPTS[2], 99])])


@pytest.mark.parametrize("padded", [False, True])
def test_truncate_takes_tokens_back(model: Any, padded: bool) -> None:
    engine = Engine(model, padded=padded)
    with engine.running():
        state, _ = engine.prefill(PROMPTS)
        engine.step(state, torch.tensor([[70, 71, 72], [73, 74, 75], [76, 77, 78]]))
        if padded and getattr(model.network.config, "sliding_window", None):
            with pytest.raises(BadRequest, match="taken back"):  # what left the window is gone
                state.truncate([11, 2, 10])
            return
        state.truncate([11, 2, 10])  # one token stays, none, all three
        output = engine.step(state, [90, 91, 92])
        rows = [[*PROMPTS[0], 70, 90], [*PROMPTS[1], 91], [*PROMPTS[2], 76, 77, 78, 92]]
        close(output.logits, [reference(model, row) for row in rows])
        assert state.lengths == [len(row) for row in rows]


def test_rows_join_rows_in_work(model: Any) -> None:
    engine = Engine(model)
    with engine.running():
        state, _ = engine.prefill(PROMPTS[:1])
        engine.step(state, [70])
        state, output = engine.prefill(PROMPTS[1:], state)
        close(output.logits, [reference(model, prompt) for prompt in PROMPTS[1:]])
        output = engine.step(state, [71, 72, 73])
        rows = [[*PROMPTS[0], 70, 71], [*PROMPTS[1], 72], [*PROMPTS[2], 73]]
        close(output.logits, [reference(model, row) for row in rows])


def test_long_prompts_are_read_in_several_passes(lively: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("posttrain.decode.packed._PREFILL_TOKENS", 12)
    engine = Engine(lively)
    with engine.running():
        _, output = engine.prefill(PROMPTS)
        close(output.logits, [reference(lively, prompt) for prompt in PROMPTS])


def test_hidden_states_are_what_the_vocabulary_projection_reads(lively: Any) -> None:
    engine = Engine(lively)
    with engine.running():
        _, output = engine.prefill(PROMPTS)
        torch.testing.assert_close(output.logits, vocabulary_head(lively.network).logits(output.hidden))


@pytest.mark.parametrize("padded", [False, True])
def test_hidden_states_of_whole_prompts(model: Any, padded: bool) -> None:
    engine = Engine(model, padded=padded)
    with engine.running():
        _, plain = engine.prefill(PROMPTS)
        _, output = engine.prefill(PROMPTS, prompt_hidden=True)
        assert plain.prompt_hidden is None
        assert output.prompt_hidden is not None
        torch.testing.assert_close(output.logits, plain.logits)
        for prompt, states in zip(PROMPTS, output.prompt_hidden):
            whole = body(model.network)(torch.tensor([prompt]), use_cache=False).last_hidden_state[0]
            torch.testing.assert_close(states, whole, atol=1e-4, rtol=1e-4)
        chosen = output.select([2, 0]).prompt_hidden
        assert chosen is not None
        assert [len(states) for states in chosen] == [7, 10]


def test_a_rows_neighbours_do_not_matter(model: Any) -> None:
    engine = Engine(model)
    with engine.running():
        alone, _ = engine.prefill(PROMPTS[1:2])
        together, _ = engine.prefill([PROMPTS[0], PROMPTS[1], [250] * 40])
        one = engine.step(alone, [70]).logits[0]
        many = engine.step(together, [71, 70, 72]).logits[1]
        torch.testing.assert_close(one, many, atol=1e-4, rtol=1e-5)


def test_recurrent_networks_cannot_take_tokens_back(tiny_tokenizer: Any) -> None:
    from transformers import MambaConfig, MambaForCausalLM

    from posttrain.models.language_model import LanguageModel

    torch.manual_seed(0)
    network = MambaForCausalLM(MambaConfig(vocab_size=300, hidden_size=32, num_hidden_layers=2)).eval()
    model = LanguageModel(network, tiny_tokenizer)
    engine = Engine(model)
    try:
        with engine.running():
            state, output = engine.prefill(PROMPTS)
    except BadRequest as refusal:
        pytest.skip(str(refusal))
    with engine.running():
        close(output.logits, [reference(model, prompt) for prompt in PROMPTS])
        close(engine.step(state, [70, 71, 72]).logits, [reference(model, [*p, 70 + i]) for i, p in enumerate(PROMPTS)])
        with pytest.raises(BadRequest, match="taken back"):
            state.truncate([1, 1, 1])
