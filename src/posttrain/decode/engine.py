"""The engine: prompts in, logits out, one pass at a time.

It knows nothing of how tokens are chosen. A search drives it with four verbs: `prefill` new rows, `step` all rows, and
on the state, `select` rows (drop, repeat, reorder) and `truncate` them (take tokens back). Rows don't see one another,
and only hidden states that are asked for meet the vocabulary projection.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import torch

from posttrain.decode.packed import PackedState, UnsupportedAttention, supports_cache
from posttrain.decode.padded import PaddedState
from posttrain.decode.state import State
from posttrain.models.forward import vocabulary_head

if TYPE_CHECKING:
    from posttrain.models.language_model import LanguageModel


class Output(NamedTuple):
    """What a pass says about the token that comes next.

    Attributes:
        logits: [B, V] float32 (of a step with T tokens a row, [B, T, V]).
        hidden: [B, H] ([B, T, H]), the last hidden states, in the network's dtype.
        prompt_hidden: After a prefill that was asked for them, those of every token of each prompt, [n, H] each.
    """

    logits: torch.Tensor
    hidden: torch.Tensor
    prompt_hidden: tuple[torch.Tensor, ...] | None = None

    def select(self, rows: list[int]) -> Output:
        """The output with row i taken from row ``rows[i]``."""
        whole = self.prompt_hidden
        return Output(self.logits[rows], self.hidden[rows], whole and tuple(whole[row] for row in rows))


class Engine:
    """Runs one model; use it inside `running`.

    Args:
        model: The language model.
        padded: Run in padded batches with transformers' own cache even where packing is possible.

    Attributes:
        prefill_seconds: Time spent in `prefill` so far.
    """

    def __init__(self, model: LanguageModel, padded: bool = False) -> None:
        self.model = model
        self.network = model.network
        self.prefill_seconds = 0.0
        self._head = self.network.get_output_embeddings()
        projection = vocabulary_head(self.network)
        self._scale, self._softcap = projection.scale, projection.softcap
        self._packed = not padded and supports_cache(self.network)

    @property
    def joins(self) -> bool:
        """Whether `prefill` can add rows to a state that has some."""
        return PackedState.joins if self._packed else PaddedState.joins

    @contextmanager
    def running(self) -> Iterator[None]:
        """Evaluation mode and no gradients, both undone at the end."""
        training = [module for module in self.network.modules() if module.training]
        self.network.eval()
        try:
            with torch.inference_mode():
                yield
        finally:
            for module in training:
                module.training = True

    def prefill(
        self, prompts: Sequence[Sequence[int]], state: State | None = None, prompt_hidden: bool = False
    ) -> tuple[State, Output]:
        """Run new prompts.

        Args:
            prompts: Token ids, at least one a prompt.
            state: Rows already in work, to which the new ones are appended (only if `joins`); None to start.
            prompt_hidden: Also keep the hidden states of all of the prompts' tokens.

        Returns:
            The state, and the output at the last token of each new prompt.
        """
        start = time.perf_counter()
        if state is None:
            state, hidden = self._start(prompts, prompt_hidden)
        else:
            hidden = state.prefill(prompts, prompt_hidden)
        if prompt_hidden:
            whole = hidden.split([len(prompt) for prompt in prompts])
            output = self._output(torch.stack([states[-1] for states in whole]))._replace(prompt_hidden=whole)
        else:
            output = self._output(hidden)
        if output.logits.is_cuda:
            torch.cuda.synchronize(output.logits.device)
        self.prefill_seconds += time.perf_counter() - start
        return state, output

    def _start(self, prompts: Sequence[Sequence[int]], every: bool) -> tuple[State, torch.Tensor]:
        state: State
        if self._packed:
            state = PackedState(self.network)
            try:
                return state, state.prefill(prompts, every)
            except UnsupportedAttention:
                self._packed = False
        state = PaddedState(self.network)
        return state, state.prefill(prompts, every)

    def step(self, state: State, tokens: torch.Tensor | Sequence[int]) -> Output:
        """Add tokens to every row.

        Args:
            state: The rows.
            tokens: [B] or [B, T] long: the next token, or the next T tokens, of each row.

        Returns:
            The output at each of these tokens: [B, V], or [B, T, V].
        """
        tokens = torch.as_tensor(tokens, dtype=torch.long, device=self.model.device)
        if tokens.dim() == 2:
            return self._output(state.step(tokens))
        return self._output(state.step(tokens[:, None])[:, 0])

    def _output(self, hidden: torch.Tensor) -> Output:
        logits = self._head(hidden).float()
        if self._scale != 1.0:
            logits = logits * self._scale
        if self._softcap is not None:
            logits = self._softcap * torch.tanh(logits / self._softcap)
        return Output(logits, hidden)
