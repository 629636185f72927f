"""Running a network without padding: packed prompts first, then rows of unequal length with our own cache.

A prefill lays the prompts end to end in one row and attends per prompt; a step carries the next tokens of all rows and
attends over each row's own past. It plugs into transformers' attention interface, so one function serves nearly every
architecture. What an architecture adds inside its attention (score caps, sinks, position biases) is noticed and refused
with `UnsupportedAttention`; the engine then takes `padded`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from posttrain.decode.kv_cache import CachePass, KeyValueCache
from posttrain.decode.state import State
from posttrain.models.forward import body, supports_packing

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_CACHED = "posttrain_cached"

# Tokens of one prefill pass: beyond this the activations only cost memory.
_PREFILL_TOKENS = 4096

# Arguments of the attention interface that change its result and aren't implemented here.
_ADDITIONS = frozenset({"softcap", "s_aux", "sinks", "position_bias", "indices", "block_indices"})

_LAYER_TYPES = {"full_attention", "sliding_attention"}


class UnsupportedAttention(Exception):
    """This network's attention needs more than keys, values and a mask."""


def _cached_attention(
    module: nn.Module,
    query: torch.Tensor,  # [1, heads, total, head_dim] in a prefill, [B, heads, T, head_dim] in a step
    key: torch.Tensor,  # [1, key_value_heads, total, head_dim]; [B, key_value_heads, width, head_dim]
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    cache_pass: CachePass | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of one pass; the signature is transformers' attention interface. Returns [B, T, heads, head_dim]."""
    if cache_pass is None:
        raise UnsupportedAttention(type(module).__name__)
    refuse_additions(module, is_causal, sliding_window, others)
    if cache_pass.segments is not None:
        return _prefill_attention(query, key, value, scaling, sliding_window, cache_pass.segments), None
    batch, heads, tokens, _ = query.shape
    groups = heads // key.shape[1]
    mask = cache_pass.mask(sliding_window, query.dtype)  # [B, 1, T, width]
    if groups > 1:
        # Heads that share keys become further query positions: no copies of the keys.
        query = query.reshape(batch, key.shape[1], groups * tokens, -1)
        if mask is not None and tokens > 1:
            mask = mask.repeat(1, 1, groups, 1)
    output = functional.scaled_dot_product_attention(query, key, value, mask, scale=scaling)
    return output.reshape(batch, heads, tokens, -1).transpose(1, 2), None


def refuse_additions(
    module: nn.Module, is_causal: bool | None, sliding_window: int | None, others: Mapping[str, Any]
) -> None:
    """Check what an attention layer asks for beside its queries, keys, values and scale.

    Args:
        module: The layer.
        is_causal: As the attention interface gives it.
        sliding_window: The same.
        others: All further arguments of the attention interface.

    Raises:
        UnsupportedAttention: If keys, values, a causal mask and a window aren't enough to compute it.
    """
    causal = is_causal if is_causal is not None else getattr(module, "is_causal", True)
    additions = [name for name in _ADDITIONS.intersection(others) if others[name] is not None]
    if additions or not causal:
        raise UnsupportedAttention(", ".join(additions) or type(module).__name__)
    if sliding_window is None and _is_sliding(module):
        raise UnsupportedAttention("sliding window")


def _prefill_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    window: int | None,
    segments: list[int],
) -> torch.Tensor:
    outputs = []
    for q, k, v in zip(query.split(segments, 2), key.split(segments, 2), value.split(segments, 2)):
        length = q.shape[2]
        mask = None
        if window is not None and window < length:
            places = torch.arange(length, device=q.device)
            distance = places[:, None] - places
            mask = (distance >= 0) & (distance < window)
        output = functional.scaled_dot_product_attention(
            q, k, v, mask, is_causal=mask is None, scale=scaling, enable_gqa=q.shape[1] != k.shape[1]
        )
        outputs.append(output.transpose(1, 2))
    return torch.cat(outputs, 1)


def _is_sliding(module: nn.Module) -> bool:
    kinds = getattr(getattr(module, "config", None), "layer_types", None)
    layer = getattr(module, "layer_idx", None)
    return kinds is not None and layer is not None and kinds[layer] == "sliding_attention"


def supports_cache(network: PreTrainedModel) -> bool:
    """Whether `PackedState` can be tried: ordinary causal attention and nothing else that remembers."""
    config = network.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or [])
    arguments = inspect.signature(body(network).forward).parameters
    return (
        supports_packing(network)
        and kinds <= _LAYER_TYPES
        and "position_ids" in arguments
        and any(argument.kind is inspect.Parameter.VAR_KEYWORD for argument in arguments.values())
        and cache_argument(network) in ("cache", "past_key_values")
        and not getattr(network, "_is_stateful", False)
    )


def cache_argument(network: PreTrainedModel) -> str | None:
    """The name under which the network's body takes its cache; it has changed within transformers 5."""
    arguments = inspect.signature(body(network).forward).parameters
    return next((name for name in ("cache", "past_key_values", "cache_params") if name in arguments), None)


@contextmanager
def _attention(network: PreTrainedModel) -> Iterator[None]:
    """Let the network call our attention; it looks the function up in its configuration at every call."""
    config = network.config
    before = config._attn_implementation
    config._attn_implementation = _CACHED
    try:
        yield
    finally:
        config._attn_implementation = before


class PackedState(State):
    """Rows without padding."""

    joins = True

    def __init__(self, network: PreTrainedModel) -> None:
        from transformers import AttentionInterface

        if _CACHED not in AttentionInterface._global_mapping:
            AttentionInterface.register(_CACHED, _cached_attention)
        self._network = network
        self._body = body(network)
        self._device = next(network.parameters()).device
        self.cache = KeyValueCache()
        self._arguments: dict[str, Any] = {cache_argument(network) or "cache": self.cache, "use_cache": True}

    @property
    def lengths(self) -> list[int]:  # type: ignore[override]
        """Number of tokens remembered for each row."""
        return self.cache.lengths

    def prefill(self, prompts: Sequence[Sequence[int]], every: bool = False) -> torch.Tensor:
        hidden: list[torch.Tensor] = []
        group: list[Sequence[int]] = []
        for prompt in prompts:
            if group and sum(map(len, group)) + len(prompt) > _PREFILL_TOKENS:
                hidden.append(self._prefill(group, every))
                group = []
            group.append(prompt)
        hidden.append(self._prefill(group, every))
        return torch.cat(hidden)

    def _prefill(self, prompts: list[Sequence[int]], every: bool) -> torch.Tensor:
        lengths = [len(prompt) for prompt in prompts]
        tokens = torch.tensor([token for prompt in prompts for token in prompt], device=self._device)
        output = self._run(tokens[None], self.cache.begin_prefill(lengths, self._device))  # [1, total, H]
        return output[0] if every else output[0, torch.tensor(lengths, device=self._device).cumsum(0) - 1]

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        return self._run(tokens, self.cache.begin_step(tokens.shape[1], self._device))

    def _run(self, tokens: torch.Tensor, now: CachePass) -> torch.Tensor:
        with _attention(self._network):
            output = self._body(input_ids=tokens, position_ids=now.positions, cache_pass=now, **self._arguments)
        return output.last_hidden_state

    def select(self, rows: list[int]) -> None:
        self.cache.select(rows)

    def truncate(self, lengths: list[int]) -> None:
        self.cache.truncate(lengths)
