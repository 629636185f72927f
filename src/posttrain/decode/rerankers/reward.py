"""Reward: the answer that a reward model prefers (best-of-n sampling: Stiennon et al., 2020; Nakano et al., 2021).

The reward model is a folder that ``posttrain align --objective reward_model`` left, a language model with a scalar head
beside it, or any network that classifies texts with one label, whose score is the reward then. Prompt and answer are
put to it as it was trained on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field

from posttrain.core.errors import BadRequest
from posttrain.data.packing import pack, passes
from posttrain.decode.rerankers import Reranker
from posttrain.decode.rerankers._judge import content, encoded, loaded
from posttrain.models import scalar_head
from posttrain.models.forward import hidden_states
from posttrain.models.heads import has_head, sequence_scores
from posttrain.models.scalar_head import REWARD_HEAD
from posttrain.models.sources import LABELS_TEXTS

if TYPE_CHECKING:
    from posttrain.data.packing import Packed
    from posttrain.decode.sequence import Generated, Question
    from posttrain.models.language_model import LanguageModel


class Reward(Reranker):
    """Prefer what a reward model prefers."""

    loads: ClassVar[tuple[str, ...]] = ("model",)

    model: str
    """The reward model: a folder, or hub:owner/name of a classifier with one label; in a recipe also the name of an
    earlier step."""

    chat: bool | None = None
    """Put prompt and answer through the reward model's chat template; when not given, as when it was trained."""

    tokens_per_pass: int = Field(2048, ge=16)
    """Most tokens that go through the reward model at once."""

    def inputs(self) -> dict[str, Any]:
        """The model's hash, where it is a folder."""
        return content(self.model)

    def judge(self, model: LanguageModel) -> LanguageModel:
        """The reward model, on the device of the one that answers.

        Raises:
            BadRequest: If there is no such model or it gives no rewards.
            Failure: If its head doesn't fit.
        """
        found = loaded(self.model, model)
        attach(found)
        return found

    @torch.no_grad()
    def scores(self, judge: LanguageModel, prompt: Question, answers: Sequence[Generated]) -> list[float]:
        found: list[float] = []
        chat = trained_chat(judge) if self.chat is None else self.chat
        for part in passes(encoded(judge, prompt, answers, chat), self.tokens_per_pass):
            found += packed_rewards(judge, pack(part).to(judge.device)).tolist()
        return found


def attach(model: LanguageModel) -> None:
    """Give a loaded reward model its head; a classifier has one.

    Raises:
        BadRequest: If it gives no rewards.
        Failure: If the head doesn't fit.
    """
    if has_head(model.network, LABELS_TEXTS):
        if model.network.config.num_labels != 1:
            raise BadRequest(f"{model.reference} has {model.network.config.num_labels} labels; a reward is one number.")
    else:
        if model.folder is None:
            raise BadRequest(f"{model.reference} is no reward model.", "Give the folder of one.")
        scalar_head.load(model.network, model.folder, REWARD_HEAD)


def trained_chat(judge: LanguageModel) -> bool | None:
    """Whether a reward model was trained on texts in the chat template; None if it doesn't say."""
    if has_head(judge.network, LABELS_TEXTS):
        return None
    return scalar_head.head_of(judge.network, REWARD_HEAD).chat


def packed_rewards(judge: LanguageModel, batch: Packed) -> torch.Tensor:
    """One number for each packed sequence, [N] float32."""
    states = hidden_states(judge.network, batch.input_ids, batch.boundaries)  # [T, H]
    if has_head(judge.network, LABELS_TEXTS):
        return sequence_scores(judge.network, states, batch.input_ids, batch.boundaries).logits[:, 0].float()
    rewards: torch.Tensor = scalar_head.head_of(judge.network, REWARD_HEAD)(states[batch.boundaries[1:] - 1])
    return rewards
