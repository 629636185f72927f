"""Toys for the tests of alignment: prompts, pairs, and a tiny policy in training."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch

from posttrain.adapt.lora import Lora
from posttrain.align.objectives import Plan
from posttrain.align.objectives.ppo import Ppo
from posttrain.align.reward import FunctionReward
from posttrain.align.rollout import Rollouts
from posttrain.data import dataset
from posttrain.models import scalar_head
from posttrain.models.language_model import LanguageModel
from posttrain.train.objectives import Encoding

PROMPTS = [{"prompt": text} for text in ("The fox", "What is", "A dog runs", "Three things to")]
PAIRS = [
    {
        "prompt": f"What is {i}? ",
        "chosen": f"It is {i}, yes." + " Yes." * (i % 3),
        "rejected": f"No {i}" + " no" * (i % 2),
    }
    for i in range(8)
]


def share_of_letters(answers: list[str]) -> list[float]:
    """Share of a-z: about a third where tokens are drawn at random, with some spread."""
    return [sum(c.isascii() and c.isalpha() for c in answer) / max(1, len(answer)) for answer in answers]


def policy_in_training(model: LanguageModel, dropout: float = 0.0) -> tuple[LanguageModel, Lora]:
    """A copy of the model with LoRA and a value head."""
    copy = LanguageModel(deepcopy(model.network), model.tokenizer)
    adapter = Lora(rank=4, dropout=dropout)
    torch.manual_seed(7)
    adapter.apply(copy.network)
    scalar_head.attach(copy.network, "value_head")
    return copy, adapter


def rollouts_of(model: LanguageModel, adapter: Lora, objective: Ppo, prompts: Any = PROMPTS, **plan: Any) -> Rollouts:
    """A source of batches over the toy prompts."""
    values: dict[str, Any] = {
        "batch_size": 4,
        "tokens_per_pass": 40,
        "seed": 3,
        "max_new_tokens": 6,
        "episodes": 16,
        "reward": FunctionReward(share_of_letters),
    }
    items = objective.encode(dataset.read(prompts), model, Encoding())
    source = objective.batches(model, items, Plan(adapter=adapter, **{**values, **plan}))
    assert isinstance(source, Rollouts)
    return source
