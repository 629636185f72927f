"""Attention over packed prompts and unequal rows against a plain loop in float64, and what is refused."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from posttrain.decode import packed
from posttrain.decode.kv_cache import CachePass, KeyValueCache
from posttrain.decode.packed import PackedState, UnsupportedAttention, cache_argument, supports_cache

HEADS, SHARED, SIZE = 4, 2, 8  # four query heads, two on each key head
CPU = torch.device("cpu")


def attend(module: Any, query: Any, key: Any, value: Any, now: CachePass | None, **more: Any) -> torch.Tensor:
    output, weights = packed._cached_attention(module, query, key, value, None, cache_pass=now, **more)
    assert weights is None
    return output


def loop(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, first: int, window: int | None, scaling: float
) -> torch.Tensor:
    """One row: queries [heads, T, D] stand at first, first + 1 …; keys [key heads, width, D]. Returns [T, heads, D]."""
    heads, tokens, size = query.shape
    out = torch.zeros(tokens, heads, size, dtype=torch.float64)
    for head in range(heads):
        shared = head // (heads // key.shape[0])
        for t in range(tokens):
            place = first + t
            visible = [p for p in range(place + 1) if window is None or place - p < window]
            scores = [float(query[head, t].double() @ key[shared, p].double()) * scaling for p in visible]
            weights = [math.exp(score - max(scores)) for score in scores]
            for weight, p in zip(weights, visible):
                out[t, head] += weight / sum(weights) * value[shared, p].double()
    return out


def draws(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("window", [None, 1, 3, 50])
def test_a_prefill_attends_within_each_prompt(window: int | None) -> None:
    lengths = [5, 1, 4]
    query = draws(1, HEADS, 10, SIZE)
    key, value = draws(1, SHARED, 10, SIZE), draws(1, SHARED, 10, SIZE + 0) * 2
    now = KeyValueCache().begin_prefill(lengths, CPU)
    output = attend(nn.Module(), query, key, value, now, scaling=0.3, sliding_window=window)
    assert output.shape == (1, 10, HEADS, SIZE)
    start = 0
    for length in lengths:
        part = slice(start, start + length)
        expected = loop(query[0, :, part], key[0, :, part], value[0, :, part], 0, window, 0.3)
        torch.testing.assert_close(output[0, part].double(), expected, atol=1e-5, rtol=1e-5)
        start += length


@pytest.mark.parametrize("window", [None, 2, 50])
@pytest.mark.parametrize("tokens", [1, 3])
@pytest.mark.parametrize("lengths", [[4, 4], [6, 1, 3]])
@pytest.mark.parametrize("shared", [HEADS, SHARED, 1])
def test_a_step_attends_over_each_rows_own_past(
    lengths: list[int], tokens: int, window: int | None, shared: int
) -> None:
    """Places beyond a row's own length hold other values, which must not count."""
    cache = KeyValueCache()
    cache.begin_prefill(lengths, CPU)
    now = cache.begin_step(tokens, CPU)
    width = max(lengths) + tokens
    query = draws(len(lengths), HEADS, tokens, SIZE)
    key, value = draws(len(lengths), shared, width, SIZE), 2 * draws(len(lengths), shared, width, SIZE)
    output = attend(nn.Module(), query, key, value, now, sliding_window=window)
    assert output.shape == (len(lengths), tokens, HEADS, SIZE)
    for row, length in enumerate(lengths):
        expected = loop(query[row], key[row], value[row], length, window, 1 / math.sqrt(SIZE))
        torch.testing.assert_close(output[row].double(), expected, atol=1e-5, rtol=1e-5)


def test_values_may_be_of_another_size_than_keys() -> None:
    cache = KeyValueCache()
    cache.begin_prefill([2, 1], CPU)
    now = cache.begin_step(1, CPU)
    output = attend(nn.Module(), draws(2, HEADS, 1, SIZE), draws(2, SHARED, 3, SIZE), draws(2, SHARED, 3, 5), now)
    assert output.shape == (2, 1, HEADS, 5)


_SLIDING = SimpleNamespace(config=SimpleNamespace(layer_types=["full_attention", "sliding_attention"]), layer_idx=1)
_FULL = SimpleNamespace(config=_SLIDING.config, layer_idx=0)


@pytest.mark.parametrize(
    ("module", "arguments", "told"),
    [
        (_FULL, {"softcap": 50.0}, "softcap"),
        (_FULL, {"s_aux": torch.zeros(HEADS)}, "s_aux"),
        (_FULL, {"position_bias": torch.zeros(1)}, "position_bias"),
        (_FULL, {"is_causal": False}, "SimpleNamespace"),
        (SimpleNamespace(is_causal=False), {}, "SimpleNamespace"),
        (_SLIDING, {}, "sliding window"),  # it says it slides but not how far
        (_FULL, {"cache_pass": None}, "SimpleNamespace"),  # the network didn't hand our argument on
    ],
)
def test_attention_that_is_more_is_refused(module: Any, arguments: dict[str, Any], told: str) -> None:
    now = KeyValueCache().begin_prefill([2], CPU)
    query, key = draws(1, HEADS, 2, SIZE), draws(1, SHARED, 2, SIZE)
    with pytest.raises(UnsupportedAttention, match=told):
        packed._cached_attention(module, query, key, key, None, **({"cache_pass": now} | arguments))


@pytest.mark.parametrize(
    ("module", "arguments"),
    [(_FULL, {"softcap": None, "s_aux": None, "dropout": 0.0}), (_SLIDING, {"sliding_window": 2}), (_FULL, {})],
)
def test_what_changes_nothing_is_not_refused(module: Any, arguments: dict[str, Any]) -> None:
    now = KeyValueCache().begin_prefill([2], CPU)
    query, key = draws(1, HEADS, 2, SIZE), draws(1, SHARED, 2, SIZE)
    assert attend(module, query, key, key, now, **arguments).shape == (1, 2, HEADS, SIZE)


@pytest.mark.parametrize(
    ("architecture", "packs"),
    # Sinks are seen only when the attention is called; capped scores and ALiBi before.
    [("llama", True), ("mistral", True), ("qwen2", True), ("gpt2", True), ("gpt_oss", True), ("gemma2", False),
     ("bloom", False)],
)  # fmt: skip
def test_which_architectures_can_be_tried(make_model: Any, architecture: str, packs: bool) -> None:
    assert supports_cache(make_model(architecture).network) is packs


def test_layers_of_another_kind_are_not_tried(make_model: Any) -> None:
    network = make_model("qwen2").network
    network.config.layer_types = ["full_attention", "chunked_attention"]
    assert not supports_cache(network)


@pytest.mark.parametrize("name", ["cache", "past_key_values", "cache_params", None])
def test_the_name_of_the_cache_is_read_off_the_network(name: str | None) -> None:
    class Body(nn.Module):
        pass

    source = {
        "cache": lambda self, input_ids, cache: None,
        "past_key_values": lambda self, past_key_values, other: None,
        "cache_params": lambda self, input_ids, cache_params: None,
        None: lambda self, input_ids: None,
    }
    Body.forward = source[name]  # type: ignore[assignment]
    assert cache_argument(SimpleNamespace(base_model=Body())) == name  # type: ignore[arg-type]


def passes(network: Any) -> list[tuple[int, ...]]:
    """The shapes [rows, tokens] of every pass through the network from now on."""
    shapes: list[tuple[int, ...]] = []
    hook = lambda module, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape))  # noqa: E731
    network.base_model.register_forward_pre_hook(hook, with_kwargs=True)
    return shapes


def test_prompts_fill_passes_up_to_the_limit_and_a_longer_one_goes_alone(
    lively: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "_PREFILL_TOKENS", 12)
    prompts = [[5] * 10, [6, 7], [8], [9] * 20, [10], [11] * 11]
    shapes = passes(lively.network)
    with torch.inference_mode():
        state = PackedState(lively.network)
        hidden = state.prefill(prompts)
        assert shapes == [(1, 12), (1, 1), (1, 20), (1, 12)]
        assert state.lengths == [10, 2, 1, 20, 1, 11]
        whole = [PackedState(lively.network).prefill([prompt])[0] for prompt in prompts]
        torch.testing.assert_close(hidden, torch.stack(whole), atol=1e-5, rtol=1e-5)
        state.step(torch.tensor([[1, 2]] * 6))
    assert shapes[-1] == (6, 2)  # no padding: as many tokens as are new


@pytest.mark.parametrize("architecture", ["llama", "gpt_oss"])
def test_the_networks_own_attention_is_back_after_each_pass_even_a_refused_one(
    make_model: Any, architecture: str
) -> None:
    network = make_model(architecture).network
    before = network.config._attn_implementation
    tokens = torch.tensor([[5, 6, 7]])
    with torch.inference_mode():
        expected = network(tokens).logits
        state = PackedState(network)
        if architecture == "gpt_oss":
            with pytest.raises(UnsupportedAttention):
                state.prefill([[5, 6, 7]])
        else:
            state.prefill([[5, 6, 7]])
        assert network.config._attn_implementation == before
        assert torch.equal(network(tokens).logits, expected)
