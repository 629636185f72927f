"""Rewards: functions of one's own, and reward models."""

from __future__ import annotations

import pytest
import torch

from posttrain.align.reward import FunctionReward, ModelReward, function_reward, model_reward
from posttrain.core.errors import BadRequest, Failure
from posttrain.models import scalar_head
from tiny_models import make_tiny_llama


def test_a_function_gets_answers_and_prompts_if_it_wants_them(tmp_path, monkeypatch):
    (tmp_path / "my_rewards.py").write_text(
        "def length(texts):\n    return [len(text) for text in texts]\n"
        "def repeats(texts, prompts):\n    return [prompt in text for prompt, text in zip(prompts, texts)]\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert function_reward("my_rewards:length").score(["a", "b"], ["x", "xyz"]) == [1.0, 3.0]
    assert function_reward("my_rewards:repeats").score(["a", "b"], ["an a", "x"]) == [1.0, 0.0]
    with pytest.raises(BadRequest, match="is no function"):
        function_reward("my_rewards:nothing")
    with pytest.raises(BadRequest, match="can't be imported: ModuleNotFoundError"):
        function_reward("no_such_module:f")


@pytest.mark.parametrize("scores", [[1.0], [1.0, float("nan")]])
def test_scores_that_cannot_be_used(scores):
    with pytest.raises(Failure, match="numbers for 2 answers"):
        FunctionReward(lambda answers: scores).score(["a", "b"], ["c", "d"])
    with pytest.raises(Failure, match="failed: ZeroDivisionError"):
        FunctionReward(lambda answers: [1 / 0]).score(["a"], ["b"])


def test_a_reward_model_reads_the_last_token(tiny_llama):
    """The score is the head on the hidden state of the end-of-text token, whatever else is scored with it."""
    head = scalar_head.attach(tiny_llama.network, "reward_head")
    torch.nn.init.normal_(head.weight)
    prompts, answers = ["What is it? ", "Who? "], ["A dog.", "The quick brown fox."]
    found = ModelReward(tiny_llama, tokens_per_pass=16).score(prompts, answers)
    for prompt, answer, score in zip(prompts, answers, found):
        ids = torch.tensor(tiny_llama.tokenizer(prompt + answer + "<|im_end|>")["input_ids"])
        with torch.no_grad():
            expected = head(tiny_llama.network.model(ids[None]).last_hidden_state[0, -1])
        assert score == pytest.approx(float(expected), abs=1e-4)
    conversation = [{"role": "user", "content": "Who?"}]
    assert len(ModelReward(tiny_llama).score([conversation], ["A dog."])) == 1


def test_a_reward_model_shares_the_policys_memory(tiny_llama, tmp_path):
    judge = make_tiny_llama()
    with torch.no_grad():
        judge.network.model.norm.weight.add_(1.0)
    scalar_head.attach(judge.network, "reward_head")
    scalar_head.save(scalar_head.detach(judge.network, "reward_head"), tmp_path, "reward_head")
    judge.folder = tmp_path
    model_reward(judge, tiny_llama.network)
    theirs = dict(tiny_llama.network.named_parameters())
    shared = {
        name
        for name, p in judge.network.named_parameters()
        if name in theirs and p.data_ptr() == theirs[name].data_ptr()
    }
    assert shared == set(theirs) - {"model.norm.weight"}
    judge.folder = None
    with pytest.raises(BadRequest, match="no reward model"):
        model_reward(judge)
