"""One pass through a network over packed sequences: no padding, and no logits unless somebody asks for them.

Several sequences lie end to end in one row; attention is block-diagonal, computed per segment through PyTorch's fused
kernel. It plugs into transformers' attention interface, so every architecture that supports it (nearly all) is served
by the same dozen lines. Networks without that interface get an ordinary padded batch instead, with equal results.

The vocabulary projection is kept apart (`vocabulary_head`): with 49,152 words the logits of a batch are larger than all
its other activations together, so callers take them in chunks and only where they are needed.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from posttrain.models.surgery import effective_weight

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_PACKED = "posttrain_packed"


def _packed_attention(
    module: nn.Module,
    query: torch.Tensor,  # [1, heads, T, head_dim]
    key: torch.Tensor,  # [1, key_value_heads, T, head_dim]
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    segment_lengths: list[int] | None = None,
    sliding_window: int | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """Attention inside each segment only; the signature is transformers' attention interface.

    Without segments it is transformers' own fused attention, so a network may keep this function for ordinary calls.
    """
    if segment_lengths is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(
            module,
            query,
            key,
            value,
            attention_mask,
            dropout,
            scaling,
            is_causal,
            sliding_window=sliding_window,
            **more,
        )
    causal = is_causal if is_causal is not None else bool(getattr(module, "is_causal", True))
    grouped = query.shape[1] != key.shape[1]
    outputs = []
    for q, k, v in zip(*(t.split(segment_lengths, 2) for t in (query, key, value))):
        mask = _window_mask(q.shape[2], sliding_window, causal, q.device) if sliding_window else None
        output = functional.scaled_dot_product_attention(
            q, k, v, mask, dropout, is_causal=causal and mask is None, scale=scaling, enable_gqa=grouped
        )
        outputs.append(output.transpose(1, 2))
    return (torch.cat(outputs, 1) if len(outputs) > 1 else outputs[0]).contiguous(), None


def _window_mask(length: int, window: int, causal: bool, device: torch.device) -> torch.Tensor | None:
    """Mask of a sliding window, behind or around each token; None while the segment is shorter than the window."""
    if length <= window:
        return None
    distance = torch.arange(length, device=device)[:, None] - torch.arange(length, device=device)[None, :]
    return (distance >= 0) & (distance < window) if causal else distance.abs() < window


def supports_packing(network: PreTrainedModel) -> bool:
    """Whether the network's attention goes through transformers' attention interface."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    if _PACKED not in AttentionInterface._global_mapping:
        AttentionInterface.register(_PACKED, _packed_attention)
        AttentionMaskInterface.register(_PACKED, sdpa_mask)  # for calls without segments
    # Score caps (Gemma 2) and other additions inside the attention need the architecture's own function.
    capped = getattr(network.config.get_text_config(), "attn_logit_softcapping", None)
    return bool(getattr(network, "_supports_attention_backend", False)) and capped is None


def body(network: PreTrainedModel) -> nn.Module:
    """The network without its head: what turns token ids into hidden states."""
    return network.base_model


def first_position(network: PreTrainedModel) -> int:
    """The number of a sequence's first position: 0, but RoBERTa and its kin count on from the padding token's id."""
    padding: Any = getattr(getattr(body(network), "embeddings", None), "padding_idx", None)
    return 0 if padding is None else int(padding) + 1


def takes(network: PreTrainedModel, argument: str) -> bool:
    """Whether the body has an input of this name."""
    return argument in inspect.signature(body(network).forward).parameters


def hidden_states(
    network: PreTrainedModel, input_ids: torch.Tensor, boundaries: torch.Tensor, **inputs: torch.Tensor
) -> torch.Tensor:
    """Last hidden states of packed sequences.

    Args:
        network: A transformers model with or without a head.
        input_ids: [T] long, the sequences end to end.
        boundaries: [S + 1] long, where each sequence starts; the last entry is T.
        **inputs: More inputs of the network with one value a token, each [T] (``token_type_ids``).

    Returns:
        [T, H] in the network's dtype.
    """
    output, real = _pass(network, input_ids, boundaries, inputs, output_hidden_states=False)
    return output.last_hidden_state[real]


def layer_states(
    network: PreTrainedModel, input_ids: torch.Tensor, boundaries: torch.Tensor, **inputs: torch.Tensor
) -> list[torch.Tensor]:
    """Hidden states of packed sequences after the embedding and after each block; the last after the final norm.

    Takes the arguments of `hidden_states`.

    Returns:
        As many as the network has blocks and one more, [T, H] each.
    """
    output, real = _pass(network, input_ids, boundaries, inputs, output_hidden_states=True)
    return [states[real] for states in output.hidden_states]


def _pass(
    network: PreTrainedModel,
    input_ids: torch.Tensor,
    boundaries: torch.Tensor,
    inputs: dict[str, torch.Tensor],
    **options: bool,
) -> tuple[Any, Any]:
    """The body's output, and an index that takes the T tokens out of each of its [rows, tokens, H] tensors."""
    lengths = (boundaries[1:] - boundaries[:-1]).tolist()
    if not supports_packing(network):
        return _padded_pass(network, input_ids, lengths, inputs, options)
    first = first_position(network)
    positions = torch.cat([torch.arange(first, first + n, device=input_ids.device) for n in lengths])
    arguments: dict[str, Any] = {name: value[None] for name, value in inputs.items()}
    if takes(network, "use_cache"):
        arguments["use_cache"] = False
    # The function stays in place after the call, since recomputed activations come back to it in the backward pass.
    network.config._attn_implementation = _PACKED
    # A mask that is 4-D already is handed on as it is: none is made for the whole row, and ours is never looked at.
    unused = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=input_ids.device)
    output = body(network)(
        input_ids=input_ids[None],
        position_ids=positions[None],
        attention_mask=unused,
        segment_lengths=lengths,
        **arguments,
        **options,
    )
    return output, 0


def _padded_pass(
    network: PreTrainedModel,
    input_ids: torch.Tensor,
    lengths: list[int],
    inputs: dict[str, torch.Tensor],
    options: dict[str, bool],
) -> tuple[Any, torch.Tensor]:
    """The same through an ordinary right-padded batch, for networks outside the attention interface."""

    def pad(flat: torch.Tensor) -> torch.Tensor:
        return nn.utils.rnn.pad_sequence(list(flat.split(lengths)), batch_first=True)

    real = pad(torch.ones_like(input_ids)).bool()  # [S, L]
    arguments = {name: pad(value) for name, value in inputs.items()}
    output = body(network)(input_ids=pad(input_ids), attention_mask=real.long(), **arguments, **options)
    return output, real


@dataclass(frozen=True)
class VocabularyHead:
    """The last linear map, from hidden states to logits: ``softcap(scale * (h W^T + b))``.

    Attributes:
        module: The projection itself, which may be quantized or adapted.
        weight: [V, H], the matrix it amounts to.
        bias: [V] or None.
        scale: Factor on the logits (Cohere, Granite).
        softcap: ``c * tanh(logits / c)`` (Gemma 2); None for most.
    """

    module: nn.Module
    weight: torch.Tensor
    bias: torch.Tensor | None
    scale: float
    softcap: float | None

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits [..., V] of hidden states [..., H]."""
        logits = self.module(hidden)
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return logits


def vocabulary_head(network: PreTrainedModel) -> VocabularyHead:
    """The vocabulary projection of a language model.

    Raises:
        TypeError: If the network has none or it isn't linear.
    """
    head = network.get_output_embeddings()
    if head is None:
        raise TypeError(f"{type(network).__name__} has no vocabulary projection")
    config = network.config.get_text_config()
    scale = float(getattr(config, "logit_scale", None) or 1.0)
    if (divisor := getattr(config, "logits_scaling", None)) is not None:
        scale /= float(divisor)
    softcap = getattr(config, "final_logit_softcapping", None)
    return VocabularyHead(head, effective_weight(head), getattr(head, "bias", None), scale, softcap)
