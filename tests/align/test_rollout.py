"""Rollouts: masks, ends, what a prompt is, and that a resumed run goes on bit for bit."""

from __future__ import annotations

import json

import pytest
import torch
from alignment_toy import PROMPTS, policy_in_training, rollouts_of

from posttrain.align.objectives.ppo import Ppo
from posttrain.align.policy import score_tokens
from posttrain.align.reward import FunctionReward
from posttrain.align.rollout import Prompt, RolloutSettings, answered, encode_prompts, kl_of_answers
from posttrain.core import events
from posttrain.core.errors import BadRequest
from posttrain.data import dataset
from posttrain.decode.generation import Generation
from posttrain.train.loop import Loop, train
from posttrain.train.objectives import Encoding

OBJECTIVE = Ppo(rollout=RolloutSettings(episodes_per_rollout=8, epochs=2))


def _trainable(network):
    return {name: p.detach().clone() for name, p in network.named_parameters() if p.requires_grad}


def test_prompts_of_every_kind(tiny_llama):
    tokenizer = tiny_llama.tokenizer
    (plain,) = encode_prompts(dataset.read([{"prompt": "Who?"}]), tokenizer, Encoding())
    assert (tokenizer.decode(plain.input_ids), plain.source, plain.loss_tokens) == ("Who?", "Who?", 0)
    (asked,) = encode_prompts(dataset.read([{"prompt": "Who?"}]), tokenizer, Encoding(chat=True))
    assert tokenizer.decode(asked.input_ids) == "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n"
    assert asked.source == "Who?"
    pair = [{"prompt": "Who?", "chosen": "A", "rejected": "B"}]
    assert encode_prompts(dataset.read(pair), tokenizer, Encoding())[0].input_ids == plain.input_ids
    (cut,) = encode_prompts(dataset.read([{"prompt": "Who?"}]), tokenizer, Encoding(max_length=2, too_long="truncate"))
    assert cut.input_ids == plain.input_ids[-2:]
    with pytest.raises(BadRequest, match="max_length is 2"):
        encode_prompts(dataset.read([{"prompt": "Who?"}]), tokenizer, Encoding(max_length=2))
    with pytest.raises(BadRequest, match="has no prompt"):
        encode_prompts(dataset.read([{"text": "a", "label": 1}]), tokenizer, Encoding())


def test_only_the_answer_is_learned_its_end_included():
    item = answered(Prompt([5, 6], [False, False], source="x"), [7, 8, 2])
    assert (item.input_ids, item.loss_mask) == ([5, 6, 7, 8, 2], [False, False, True, True, True])


def test_numbers_stand_where_their_tokens_are_predicted(tiny_llama):
    """Each extra is zero but at the positions of the answer's tokens, and the score comes at the last of them."""
    model, adapter = policy_in_training(tiny_llama)
    source = rollouts_of(model, adapter, OBJECTIVE, reward=FunctionReward(lambda answers: [2.0] * len(answers)))
    for micro in next(iter(source)):
        learned = micro.targets >= 0
        with torch.no_grad():
            assert torch.equal(micro.extras["logprobs"][learned], score_tokens(model.network, micro).logprobs)
        assert not micro.extras["logprobs"][~learned].any() and not micro.extras["advantages"][~learned].any()
    for episode in source.episodes:
        assert len(episode.rewards) == len(episode.values) == len(episode.input_ids) - episode.prompt_length
        assert episode.rewards[-1] == 2.0 and not any(episode.rewards[:-1])  # the policy still is the reference
    advantages = torch.cat([m.extras["advantages"][m.targets >= 0] for batch in source._batches() for m in batch])
    assert float(advantages.mean()) == pytest.approx(0, abs=1e-5)
    assert float(advantages.square().mean()) == pytest.approx(1, abs=1e-3)


def test_an_answer_ends_with_its_end_token(tiny_llama, monkeypatch):
    """An answer that ends by itself keeps its end-of-text token; one that is cut off is fined."""
    ends = Generation([], "ab", [70, 71, 2], -1.0, [], "eos")
    cut = Generation([], "abc", [70, 71, 72], -1.0, [], "length")
    monkeypatch.setattr("posttrain.align.rollout.sample_answers", lambda model, prompts, length, seed: [ends, cut])
    model, adapter = policy_in_training(tiny_llama)
    objective = Ppo(rollout=RolloutSettings(episodes_per_rollout=2, unfinished_penalty=0.5))
    source = rollouts_of(model, adapter, objective, reward=FunctionReward(lambda answers: [1.0] * len(answers)))
    next(iter(source))
    assert [episode.input_ids[episode.prompt_length :] for episode in source.episodes] == [[70, 71, 2], [70, 71, 72]]
    assert [episode.rewards[-1] for episode in source.episodes] == [1.0, 0.5]
    assert source.history[0]["ended"] == 0.5


def test_prompts_are_gone_through_evenly(tiny_llama):
    model, adapter = policy_in_training(tiny_llama)
    source = rollouts_of(model, adapter, OBJECTIVE)
    drawn = [source._prompt(number).source for number in range(2 * len(PROMPTS))]
    assert sorted(drawn[:4]) == sorted(drawn[4:]) == sorted(row["prompt"] for row in PROMPTS)


def test_the_reference_is_the_network_without_its_adapter(tiny_llama):
    model, adapter = policy_in_training(tiny_llama)
    items = [answered(Prompt([5, 6], [False, False]), [70, 71, 2]), answered(Prompt([9], [False]), [71, 3])]
    assert kl_of_answers(model, adapter, items, 64) == [0.0, 0.0]
    with torch.no_grad():
        for name, parameter in model.network.named_parameters():
            if ".B." in name:
                parameter.normal_()
    found = kl_of_answers(model, adapter, items, 64)
    for item, kl in zip(items, found):
        ids = torch.tensor([item.input_ids])
        with torch.no_grad():
            new, old = (network(ids).logits[0].log_softmax(-1) for network in (model.network, tiny_llama.network))
        ratios = [float((old - new)[i - 1, item.input_ids[i]]) for i in range(len(item)) if item.loss_mask[i]]
        assert kl == pytest.approx(sum(torch.tensor(ratios).exp() - 1 - torch.tensor(ratios)).item(), rel=1e-3)
        assert kl > 0


def test_a_divergence_below_zero_is_diagnosed(tiny_llama):
    model, adapter = policy_in_training(tiny_llama)
    source = rollouts_of(model, adapter, OBJECTIVE)
    seen = []
    answers = [Generation([], "a", [7], -1.0, [], "length")] * 8
    with events.listen(seen.append):
        source._note([0.0] * 8, [-0.5, 0.5] * 4, answers)
        assert not seen
        source._note([0.0] * 8, [-2.0, -2.1] * 4, answers)
    assert "below zero beyond noise" in seen[0].name


@pytest.mark.parametrize("stop_after", [1, 3, 4])
def test_a_resumed_run_is_bit_exact(tiny_llama, tmp_path, stop_after):
    """Rollouts of 8 in batches of 4 for 2 epochs, 4 steps each: stopped inside and at the edge of a rollout."""
    objective = Ppo(rollout=RolloutSettings(episodes_per_rollout=8, epochs=2, kl={"target": 0.5, "gain": 1.0}))
    settings = Loop(steps=10, learning_rate=1e-2, checkpoint_every=1)
    whole, adapter = policy_in_training(tiny_llama)
    first = rollouts_of(whole, adapter, objective)
    expected = train(whole.network, objective, first, settings)

    class Kill(Exception):
        pass

    def bomb(event: events.Event) -> None:
        if (event.kind, event.name) == ("advance", "Train") and event.fields["done"] == stop_after + 1:
            raise Kill

    killed, adapter = policy_in_training(tiny_llama)
    with pytest.raises(Kill), events.listen(bomb):
        train(killed.network, objective, rollouts_of(killed, adapter, objective), settings, checkpoint=tmp_path)
    resumed, adapter = policy_in_training(tiny_llama)
    second = rollouts_of(resumed, adapter, objective)
    found = train(resumed.network, objective, second, settings, checkpoint=tmp_path)
    assert [entry["loss"] for entry in found.history] == [entry["loss"] for entry in expected.history]
    for name, value in _trainable(whole.network).items():
        assert torch.equal(_trainable(resumed.network)[name], value), name
    assert second.history == first.history and len(first.history) == 3
    assert json.loads(json.dumps(second.state_dict())) == first.state_dict()


def test_a_reward_is_needed(tiny_llama):
    model, adapter = policy_in_training(tiny_llama)
    with pytest.raises(BadRequest, match="need a reward"):
        rollouts_of(model, adapter, OBJECTIVE, reward=None)
