"""Reward: a reward model's number for each answer; the difference of two is the log odds of the preference.

The judge is the folder of a reward model that `posttrain align --objective reward_model` left, or a classifier with one
label. Bradley and Terry's model, by which it was trained, makes the preference of two rewards: P = σ(r_1 − r_2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from posttrain.bench.judges import PointwiseJudge
from posttrain.bench.task_types import Effort
from posttrain.core.errors import Failure
from posttrain.core.events import task
from posttrain.data.chat_template import tokenize
from posttrain.data.packing import pack, passes
from posttrain.data.record import Completion, Dialogue
from posttrain.decode.rerankers.reward import attach, packed_rewards, trained_chat
from posttrain.models.language_model import LanguageModel


class Reward(PointwiseJudge):
    """Compare the rewards of a reward model."""

    chat: bool | None = None
    """Put prompt and answer through the chat template; when not given, as when it was trained."""

    def prepare(self, model: LanguageModel) -> None:
        attach(model)

    def preference(self, first: float, second: float) -> float:
        return 0.5 * (1 + math.tanh((first - second) / 2))  # the logistic function

    @torch.no_grad()
    def grades(
        self, model: LanguageModel, answers: Sequence[tuple[str | Dialogue, str]], criterion: str, effort: Effort
    ) -> list[float | None]:
        records = [
            Completion(prompt, answer if isinstance(prompt, str) else [{"role": "assistant", "content": answer}])
            for prompt, answer in answers
        ]
        chat = trained_chat(model) if self.chat is None else self.chat
        items = list(tokenize(records, model.tokenizer, chat=chat))
        limit = model.context_length
        fitting = [i for i, item in enumerate(items) if limit is None or len(item) <= limit]
        rewards: list[float] = []
        with task("Rewards", total=len(fitting), unit="answers") as progress:
            for part in passes([items[i] for i in fitting], effort.tokens_per_pass):
                rewards += packed_rewards(model, pack(part).to(model.device)).tolist()
                progress.advance(len(part))
        if not all(map(math.isfinite, rewards)):
            raise Failure("The reward model's scores are not finite numbers.", "Train it again with a lower rate.")
        found: list[float | None] = [None] * len(items)
        for i, reward in zip(fitting, rewards):
            found[i] = reward
        return found
