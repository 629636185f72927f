"""Perplexity: the answer that another language model finds most probable, given the prompt.

The score is minus the logarithm of the perplexity: the mean log-probability of the answer's tokens, as the other model
cuts it into tokens, without the one that ends it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field

from posttrain.core.errors import BadRequest
from posttrain.data.packing import IGNORED, pack, passes
from posttrain.decode.rerankers import Reranker
from posttrain.decode.rerankers._judge import content, encoded, loaded
from posttrain.models.forward import hidden_states, vocabulary_head
from posttrain.ops.logprobs import token_logprobs

if TYPE_CHECKING:
    from posttrain.data.encoded import Encoded
    from posttrain.decode.sequence import Generated, Question
    from posttrain.models.language_model import LanguageModel

# Rows of logits held at a time.
_CHUNK = 256


class Perplexity(Reranker):
    """Prefer what another model finds probable."""

    loads: ClassVar[tuple[str, ...]] = ("model",)

    model: str
    """The other language model: an alias, a folder, a .gguf file, hub:owner/name or wheel:NAME; in a recipe also the
    name of an earlier step."""

    chat: bool | None = None
    """Put prompt and answer through the other model's chat template; when not given, only conversations are."""

    tokens_per_pass: int = Field(2048, ge=16)
    """Most tokens that go through the model at once."""

    def inputs(self) -> dict[str, Any]:
        """The model's hash, where it is a folder."""
        return content(self.model)

    def judge(self, model: LanguageModel) -> LanguageModel:
        """The other model, on the device of the one that answers.

        Raises:
            BadRequest: If there is no such model or it isn't causal.
        """
        found = loaded(self.model, model)
        if not found.is_causal:
            raise BadRequest(f"{self.model} is no causal language model, so it has no perplexity.")
        return found

    @torch.no_grad()
    def scores(self, judge: LanguageModel, prompt: Question, answers: Sequence[Generated]) -> list[float]:
        items = [_without_end(item, judge) for item in encoded(judge, prompt, answers, self.chat)]
        head = vocabulary_head(judge.network)
        found: list[float] = []
        for part in passes(items, self.tokens_per_pass):
            batch = pack(part).to(judge.device)
            scored = batch.targets != IGNORED
            states = hidden_states(judge.network, batch.input_ids, batch.boundaries)[scored]
            chunks = zip(states.split(_CHUNK), batch.targets[scored].split(_CHUNK))
            logprobs = torch.cat([token_logprobs(head.logits(rows), wanted) for rows, wanted in chunks])
            counts = [item.loss_tokens for item in part]
            found += [float(each.mean()) if len(each) else -float("inf") for each in logprobs.split(counts)]
        return found


def _without_end(item: Encoded, judge: LanguageModel) -> Encoded:
    """The sequence with the tokens that end the answer not scored."""
    special, scored = set(judge.tokenizer.all_special_ids), enumerate(zip(item.input_ids, item.loss_mask))
    end = next((place for place, (token, learned) in scored if learned and token in special), len(item))
    return replace(item, loss_mask=[learned and place < end for place, learned in enumerate(item.loss_mask)])
