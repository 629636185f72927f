"""PPO: clipped losses by hand, ratios of exactly 1, and a toy in which the reward rises within a KL budget."""

from __future__ import annotations

import random

import pytest
import torch
from alignment_toy import policy_in_training, rollouts_of

from posttrain.adapt.full import Full
from posttrain.adapt.lora import Lora
from posttrain.align.objectives.ppo import Ppo, clipped_policy_loss, clipped_value_loss
from posttrain.align.reward import FunctionReward
from posttrain.align.rollout import RolloutSettings
from posttrain.core.errors import BadRequest
from posttrain.data import dataset
from posttrain.data.collate import Batches
from posttrain.models import scalar_head
from posttrain.train.loop import Loop, train
from posttrain.train.objectives import Encoding
from posttrain.train.objectives.language_modeling import LanguageModeling


def test_the_policy_loss_by_hand():
    """The four cases of the docstring; only where moving on would be rewarded does the gradient vanish."""
    ratios = torch.tensor([1.5, 1.5, 0.5, 0.5], requires_grad=True)
    found = clipped_policy_loss(ratios, torch.tensor([2.0, -2.0, 2.0, -2.0]), 0.2)
    torch.testing.assert_close(found.detach(), torch.tensor([-2.4, 3.0, -1.0, 1.6]))
    found.sum().backward()
    torch.testing.assert_close(ratios.grad, torch.tensor([0.0, 2.0, -2.0, 0.0]))


def test_the_value_loss_by_hand():
    """Old value 0, return 1, clip 0.2: value 1 counts as 0.2 (0.32), 0.1 as itself (0.405), -1 as -1 (2)."""
    found = clipped_value_loss(torch.tensor([1.0, 0.1, -1.0]), torch.zeros(3), torch.ones(3), 0.2)
    torch.testing.assert_close(found, torch.tensor([0.32, 0.405, 2.0]))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_ratios_of_the_first_minibatch_are_exactly_one(tiny_llama, checkpointing):
    """Of every rollout, with dropout in the adapter, split into several passes; later ones have moved."""
    objective = Ppo(rollout=RolloutSettings(episodes_per_rollout=8, epochs=2))
    model, adapter = policy_in_training(tiny_llama, dropout=0.5)
    source = rollouts_of(model, adapter, objective)
    settings = Loop(steps=12, learning_rate=1e-2, activation_checkpointing=checkpointing)
    history = train(model.network, objective, source, settings).history
    for entry in history[::4]:  # two minibatches, two epochs
        assert entry["ratio"] == 1.0 and entry["kl_from_old"] == 0.0 and entry["clipped"] == 0.0
        assert entry["policy_loss"] != 0.0
    assert all(entry["kl_from_old"] > 0 for number, entry in enumerate(history) if number % 4)


def test_the_entropy_bonus_is_taken_off_the_loss(tiny_llama):
    model, adapter = policy_in_training(tiny_llama)
    plain, bonus = Ppo(), Ppo(entropy_coefficient=0.5)
    (micro, *_) = next(iter(rollouts_of(model, adapter, plain)))
    with torch.no_grad():
        without, metrics = plain.loss(model.network, micro)
        with_bonus, _ = bonus.loss(model.network, micro)
    assert float(without - with_bonus) == pytest.approx(0.5 * metrics["entropy"], rel=1e-4)
    assert float(without) == pytest.approx(metrics["policy_loss"] + 0.1 * metrics["value_loss"], rel=1e-4)


def test_a_base_that_was_not_kept_is_refused(tiny_llama):
    adapter = Full()
    adapter.apply(tiny_llama.network)
    scalar_head.attach(tiny_llama.network, "value_head")
    with pytest.raises(BadRequest, match="keep_base"):
        next(iter(rollouts_of(tiny_llama, adapter, Ppo())))


def test_steps_are_whole_rollouts():
    """70 episodes in rollouts of 32 are 3 rollouts, of 2 epochs with 4 minibatches of 8."""
    assert Ppo().steps_for(70, 8) == 3 * 2 * 4
    assert Ppo().steps_for(5, 8) == 2


def test_the_reward_rises_within_a_kl_budget(tiny_llama):
    """A model that has learned to write letters a to d at random is paid for every a."""

    def share_of_a(answers: list[str]) -> list[float]:
        return [answer.count("a") / max(1, len(answer)) for answer in answers]

    draw = random.Random(0)
    rows = [{"prompt": "Say: ", "completion": "".join(draw.choices("abcd", k=8))} for _ in range(128)]
    language = LanguageModeling()
    items = language.encode(dataset.read(rows), tiny_llama, Encoding())
    torch.manual_seed(0)
    Full().apply(tiny_llama.network)
    train(tiny_llama.network, language, Batches(items, 16, 4096), Loop(steps=60, learning_rate=5e-3))
    Full().merge(tiny_llama.network)

    adapter = Lora(rank=8)
    adapter.apply(tiny_llama.network)
    scalar_head.attach(tiny_llama.network, "value_head")
    objective = Ppo(rollout=RolloutSettings(kl={"coefficient": 0.02}))
    plan = {
        "batch_size": 16,
        "tokens_per_pass": 4096,
        "max_new_tokens": 8,
        "episodes": 320,
        "reward": FunctionReward(share_of_a),
    }
    source = rollouts_of(tiny_llama, adapter, objective, [{"prompt": "Say: "}], **plan)
    train(tiny_llama.network, objective, source, Loop(steps=objective.steps_for(320, 16), learning_rate=3e-3))
    first, last = source.history[0], source.history[-4:]
    assert first["kl"] == pytest.approx(0, abs=1e-5)
    assert first["reward"] < 0.4
    assert sum(entry["reward"] for entry in last) / 4 > first["reward"] + 0.12
    assert sum(entry["kl"] for entry in last) / 4 < 4


def test_a_spent_budget_ends_the_training(tiny_llama):
    """The rollout that is too far from the reference isn't learned from; a huge budget changes nothing."""
    settings = Loop(steps=16, learning_rate=3e-2)
    results = {}
    for budget in (1e-4, 1e6):
        model, adapter = policy_in_training(tiny_llama)
        objective = Ppo(rollout=RolloutSettings(episodes_per_rollout=8, epochs=2, kl={"budget": budget}))
        source = rollouts_of(model, adapter, objective)
        results[budget] = train(model.network, objective, source, settings), source
    stopped, source = results[1e-4]
    *within, beyond = [entry["kl"] for entry in source.history]
    assert max(within) <= 1e-4 < beyond
    assert stopped.stopped_early and len(stopped.history) == 4 * len(within) < 16  # two epochs of two minibatches each
    whole, _ = results[1e6]
    assert not whole.stopped_early and len(whole.history) == 16
    assert whole.history[: len(stopped.history)] == stopped.history
