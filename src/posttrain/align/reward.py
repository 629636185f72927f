"""Rewards: a number for an answer, from a trained reward model or a function of one's own.

``my.module:function`` takes a list of answers, and the prompts too if it has a parameter `prompts`, and returns one
number each: tests that can be verified (does the code run, is the sum right) need no model. A reward model is a folder
that the objective `reward_model` left, or the name of that step in a recipe. Where it stands on the same base as the
policy, the two share the base's memory.
"""

from __future__ import annotations

import importlib
import inspect
import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from posttrain.core.errors import BadRequest, Failure
from posttrain.data.chat_template import tokenize
from posttrain.data.packing import Packed, pack, passes
from posttrain.data.record import Completion, Dialogue
from posttrain.models import scalar_head
from posttrain.models.forward import hidden_states
from posttrain.models.scalar_head import REWARD_HEAD

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from posttrain.models.language_model import LanguageModel


@dataclass(frozen=True)
class Judgement:
    """What is said of n answers.

    Attributes:
        scores: One an answer.
        disagreement: How far several judges are apart, in the unit of the scores; None where there is only one.
    """

    scores: list[float]
    disagreement: float | None = None


class Reward(ABC):
    """Judges answers."""

    @abstractmethod
    def score(self, prompts: Sequence[str | Dialogue], answers: Sequence[str]) -> list[float]:
        """One finite number an answer, higher is better.

        Raises:
            Failure: If one isn't a finite number.
        """

    def judge(self, prompts: Sequence[str | Dialogue], answers: Sequence[str]) -> Judgement:
        """The scores, and what else there is to say of them; takes and raises what `score` does."""
        return Judgement(self.score(prompts, answers))


class FunctionReward(Reward):
    """A Python function of answers, and of prompts if it has a parameter of that name.

    Args:
        function: ``(answers) -> numbers`` or ``(answers, prompts) -> numbers``.
        name: For messages.
    """

    def __init__(self, function: Callable[..., Sequence[float]], name: str = "reward") -> None:
        self.function, self.name = function, name
        try:
            self._takes_prompts = "prompts" in inspect.signature(function).parameters
        except ValueError:  # a builtin without a signature
            self._takes_prompts = False

    def score(self, prompts: Sequence[str | Dialogue], answers: Sequence[str]) -> list[float]:
        more = {"prompts": list(prompts)} if self._takes_prompts else {}
        try:
            scores = [float(score) for score in self.function(list(answers), **more)]
        except Exception as error:  # whatever an outsider's function raises
            raise Failure(f"The reward {self.name} failed: {type(error).__name__}: {error}.") from error
        if len(scores) != len(answers) or not all(map(math.isfinite, scores)):
            raise Failure(
                f"The reward {self.name} gave {len(scores)} numbers for {len(answers)} answers, or one not finite.",
                "Return one finite number for each answer.",
            )
        return scores


class ModelReward(Reward):
    """A trained reward model.

    Args:
        model: With its head attached.
        chat: Put prompt and answer through the chat template; None does so for messages only.
        tokens_per_pass: Most tokens that go through the network at once.
    """

    def __init__(self, model: LanguageModel, chat: bool | None = None, tokens_per_pass: int = 2048) -> None:
        self.model, self.chat, self.tokens_per_pass = model, chat, tokens_per_pass
        model.network.requires_grad_(False).eval()

    def score(self, prompts: Sequence[str | Dialogue], answers: Sequence[str]) -> list[float]:
        records = [
            Completion(prompt, answer if isinstance(prompt, str) else [{"role": "assistant", "content": answer}])
            for prompt, answer in zip(prompts, answers)
        ]
        items = list(tokenize(records, self.model.tokenizer, chat=self.chat))
        head = scalar_head.head_of(self.model.network, REWARD_HEAD)
        scores: list[float] = []
        with torch.no_grad():
            for part in passes(items, self.tokens_per_pass):
                batch = pack(part).to(self.model.device)
                scores += segment_rewards(self.model.network, head, batch).tolist()
        if not all(map(math.isfinite, scores)):
            raise Failure("The reward model's scores are not finite numbers.", "Train it again with a lower rate.")
        return scores


def segment_rewards(network: PreTrainedModel, head: nn.Module, batch: Packed) -> torch.Tensor:
    """The head's output at the last token of each segment, [S] float32."""
    hidden = hidden_states(network, batch.input_ids, batch.boundaries)  # [T, H]
    rewards: torch.Tensor = head(hidden[batch.boundaries[1:] - 1])
    return rewards


def function_reward(reference: str) -> FunctionReward:
    """The function ``my.module:function``, also from the working folder.

    Raises:
        BadRequest: If it can't be imported or isn't callable.
    """
    module_name, _, function_name = reference.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        function = getattr(importlib.import_module(module_name), function_name, None)
    except Exception as error:  # whatever an outsider's module raises
        raise BadRequest(
            f"The reward '{reference}' can't be imported: {type(error).__name__}: {error}.",
            "Install it, or run from the folder that holds it.",
        ) from error
    if not callable(function):
        raise BadRequest(f"The reward '{reference}' is no function.", "Give module:function.")
    return FunctionReward(function, reference)


def model_reward(
    model: LanguageModel, frozen: PreTrainedModel | None = None, chat: bool | None = None, tokens_per_pass: int = 2048
) -> ModelReward:
    """A reward model from the loaded folder that holds it.

    Args:
        model: As loaded.
        frozen: A network whose weights won't change, with which memory is shared where they are equal; call this
            before it gets its adapter.
        chat: See `ModelReward`; None does as when it was trained.
        tokens_per_pass: See `ModelReward`.

    Raises:
        BadRequest: If the folder holds no reward model.
    """
    if model.folder is None:
        raise BadRequest(f"{model.reference} is no reward model.", "Give the folder of one.")
    head = scalar_head.load(model.network, model.folder, REWARD_HEAD)
    if frozen is not None:
        _share_memory(model.network, frozen)
    return ModelReward(model, head.chat if chat is None else chat, tokens_per_pass)


def _share_memory(network: PreTrainedModel, other: PreTrainedModel) -> None:
    """Let parameters of `network` that equal those of `other` lie where these lie."""
    theirs = {_plain_name(name): p for name, p in other.named_parameters()}
    for name, parameter in network.named_parameters():
        same = theirs.get(_plain_name(name))
        if same is not None and same.dtype == parameter.dtype and torch.equal(same, parameter):
            parameter.data = same.data


def _plain_name(name: str) -> str:
    """A parameter's name without the wrapper that an adapter has put around its module."""
    return ".".join(part for part in name.split(".") if part != "base")
