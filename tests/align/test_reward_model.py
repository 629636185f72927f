"""Bradley-Terry by hand, and a reward model that learns what can be told apart."""

from __future__ import annotations

import math
import random

import pytest
import torch
from alignment_toy import PAIRS

from posttrain.adapt.lora import Lora
from posttrain.align.objectives.reward_model import RewardModel, bradley_terry
from posttrain.data import dataset
from posttrain.data.collate import Batches
from posttrain.models import scalar_head
from posttrain.train.loop import Loop, evaluate, train
from posttrain.train.objectives import Encoding


def test_by_hand():
    """Rewards 2 and 1: ln(1 + e^-1) = 0.313262; 1 and 2: 1.313262; equal: ln 2."""
    found = bradley_terry(torch.tensor([2.0, 1.0, 3.0]), torch.tensor([1.0, 2.0, 3.0]))
    torch.testing.assert_close(found, torch.tensor([0.313262, 1.313262, math.log(2)]))


def test_the_loss_reads_the_last_tokens(tiny_llama):
    network, objective = tiny_llama.network, RewardModel(centering=0.5)
    head = scalar_head.attach(network, "reward_head")
    torch.nn.init.normal_(head.weight)
    batch = objective.collate(objective.encode(dataset.read(PAIRS[:3]), tiny_llama, Encoding()))
    with torch.no_grad():
        value, metrics = objective.loss(network, batch)
        own = batch.input_ids.split(batch.lengths.tolist())
        rewards = [float(head(network.model(ids[None]).last_hidden_state[0, -1])) for ids in own]
    pairs = list(zip(rewards[::2], rewards[1::2]))
    expected = sum(math.log1p(math.exp(r - c)) + 0.5 * (c + r) ** 2 for c, r in pairs)
    assert float(value) == pytest.approx(expected, rel=1e-3)
    assert metrics["margin"] == pytest.approx(sum(c - r for c, r in pairs), rel=1e-2, abs=1e-3)
    assert metrics["accuracy"] == sum(c > r for c, r in pairs)
    assert objective.weight(batch) == 3


def _separable(count: int, seed: int) -> list[dict[str, str]]:
    """The chosen answer speaks of the fox, the rejected one of the dog; all else is chance."""
    draw = random.Random(seed)
    words = ["runs", "sleeps", "jumps", "thinks", "answers", "remembers"]
    return [
        {
            "prompt": f"Number {draw.randint(10, 99)}: ",
            "chosen": f"the fox {draw.choice(words)}",
            "rejected": f"the dog {draw.choice(words)}",
        }
        for _ in range(count)
    ]


def test_held_out_pairs_of_a_separable_set(tiny_llama):
    objective = RewardModel()
    learned, held = (
        objective.encode(dataset.read(_separable(count, seed)), tiny_llama, Encoding())
        for count, seed in ((64, 0), (40, 1))
    )
    torch.manual_seed(0)
    Lora(rank=4, targets="all-linear").apply(tiny_llama.network)
    scalar_head.attach(tiny_llama.network, "reward_head")
    batches = Batches(learned, 16, 4096, collate=objective.collate)
    before = evaluate(tiny_llama.network, objective, [objective.collate(held)])
    train(tiny_llama.network, objective, batches, Loop(steps=30, learning_rate=1e-2))
    after = evaluate(tiny_llama.network, objective, [objective.collate(held)])
    assert (before["accuracy"], before["loss"]) == (0.5, pytest.approx(math.log(2)))
    assert after["accuracy"] >= 0.9 and after["margin"] > 0.5
