"""Running a network the ordinary way: left-padded batches and transformers' own cache.

For architectures that don't go through the attention interface or remember more than keys and values. Rows can't join
while others are in work, and padding costs time; results are the same.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from posttrain.core.errors import BadRequest
from posttrain.decode.packed import cache_argument
from posttrain.decode.state import State
from posttrain.models.forward import body

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class PaddedState(State):
    """Rows of one left-padded batch."""

    joins = False

    def __init__(self, network: PreTrainedModel) -> None:
        from transformers import DynamicCache

        name = cache_argument(network)
        self._body = body(network)
        self._accepted = inspect.signature(self._body.forward).parameters
        self._recurrent = bool(getattr(network, "_is_stateful", False))
        if name is None or (self._recurrent and not hasattr(DynamicCache, "has_previous_state")):
            raise BadRequest(
                f"The installed transformers can't keep the past of a {type(network).__name__} in its general cache.",
                "Install a newer transformers, or use another model.",
            )
        self._cache_name: str = name
        self._device = next(network.parameters()).device
        self._cache = DynamicCache(config=network.config.get_text_config())
        self._mask = torch.empty(0, 0, dtype=torch.long, device=self._device)  # [B, width]: 1 real, 0 padding

    @property
    def lengths(self) -> list[int]:  # type: ignore[override]
        """Number of tokens remembered for each row."""
        return self._mask.sum(1).tolist()

    def prefill(self, prompts: Sequence[Sequence[int]], every: bool = False) -> torch.Tensor:
        if self.rows:
            raise RuntimeError("a padded batch can't take more rows")
        width = max(map(len, prompts))
        # Padding is masked, so any id the embedding knows will do.
        tokens = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts], device=self._device)
        self._mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=self._device)
        hidden = self._run(tokens)
        return hidden[self._mask.bool()] if every else hidden[:, -1]

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        self._mask = torch.cat([self._mask, torch.ones_like(tokens)], 1)
        return self._run(tokens)

    def _run(self, tokens: torch.Tensor) -> torch.Tensor:
        positions = (self._mask.cumsum(1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
        # A network that is recurrent throughout masks its inputs, not its past.
        only_inputs = self._recurrent and "position_ids" not in self._accepted
        mask = self._mask[:, -tokens.shape[1] :] if only_inputs else self._mask
        arguments: dict[str, Any] = {"attention_mask": mask, "position_ids": positions, "use_cache": True}
        arguments = {name: value for name, value in arguments.items() if name in self._accepted}
        output = self._body(input_ids=tokens, **arguments, **{self._cache_name: self._cache})
        return output.last_hidden_state

    def select(self, rows: list[int]) -> None:
        if rows == list(range(self.rows)):
            return
        index = torch.tensor(rows, dtype=torch.long, device=self._device)
        self._mask = self._mask[index]
        self._cache.reorder_cache(index)  # type: ignore[arg-type]

    def truncate(self, lengths: list[int]) -> None:
        if self._recurrent or any(self._cache.is_sliding):
            raise BadRequest(
                "This network forgets or sums up its past, so tokens can't be taken back.", "Choose another search."
            )
        # Tokens taken back stay in the cache, masked: counted from the left, real tokens beyond the new length.
        surplus = self._mask.cumsum(1) > torch.tensor(lengths, device=self._device)[:, None]
        self._mask = self._mask.masked_fill(surplus, 0)
