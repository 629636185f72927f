"""Rewards: equal to those that alignment gives, and classifiers with one label."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from posttrain.align.reward import model_reward
from posttrain.core.errors import BadRequest, Failure
from posttrain.decode.rerankers.reward import Reward
from posttrain.decode.sequence import Ending, Generated
from posttrain.models import scalar_head
from posttrain.models.heads import give_head
from posttrain.models.saving import save
from posttrain.models.sources import load
from tiny_models import make_tiny_llama

TEXTS = ["The dog sleeps.", "fox", "A language model predicts the next token from the tokens"]
PROMPTS = ["What? ", [{"role": "user", "content": "What?"}]]


def answers(tokenizer: Any) -> list[Generated]:
    found = [Generated(0, number, [5], Ending(99), tokenizer) for number in range(len(TEXTS))]
    for answer, text in zip(found, TEXTS):
        for token in tokenizer(text)["input_ids"]:
            answer.append(token, 0.0)
    return found


def saved(folder: Path, width: int = 64) -> str:
    """A reward model as the objective leaves it, with weights that aren't zero."""
    model = make_tiny_llama(seed=4)
    head = scalar_head.attach(model.network, "reward_head")
    torch.nn.init.normal_(head.weight, generator=torch.Generator().manual_seed(0))
    head.bias.data.fill_(0.25)
    scalar_head.detach(model.network, "reward_head")
    save(model, folder)
    scalar_head.save(head if width == 64 else scalar_head.ScalarHead(width, torch.device("cpu")), folder, "reward_head")
    return str(folder)


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("chat", [None, True])
def test_equals_the_rewards_of_alignment(tiny_llama: Any, tmp_path: Path, prompt: Any, chat: bool | None) -> None:
    folder = saved(tmp_path / "judge")
    expected = model_reward(load(folder), chat=chat).score([prompt] * len(TEXTS), TEXTS)
    assert len({round(reward, 3) for reward in expected}) == len(TEXTS)
    reranker = Reward(model=folder, chat=chat, tokens_per_pass=32)
    scores = reranker.scores(reranker.judge(tiny_llama), prompt, answers(tiny_llama.tokenizer))
    assert scores == pytest.approx(expected, abs=1e-5)


def test_a_classifier_with_one_label(tiny_llama: Any, tmp_path: Path) -> None:
    classifier = make_tiny_llama(seed=5)
    give_head(classifier, "sequence_classification", ["good"], "regression")
    save(classifier, tmp_path / "classifier")
    reranker = Reward(model=str(tmp_path / "classifier"))
    scores = reranker.scores(reranker.judge(tiny_llama), "What? ", answers(tiny_llama.tokenizer))
    for text, score in zip(TEXTS, scores):
        ids = torch.tensor([classifier.tokenizer(f"What? {text}<|im_end|>")["input_ids"]])
        with torch.no_grad():
            assert score == pytest.approx(float(classifier.network(ids).logits[0, 0]), abs=1e-4)


def test_what_gives_no_rewards_is_refused(tiny_llama: Any, tmp_path: Path) -> None:
    save(tiny_llama, tmp_path / "plain")
    with pytest.raises(BadRequest, match="has no reward_head"):
        Reward(model=str(tmp_path / "plain")).judge(tiny_llama)
    give_head(tiny_llama, "sequence_classification", ["bad", "good"])
    save(tiny_llama, tmp_path / "two")
    with pytest.raises(BadRequest, match="2 labels"):
        Reward(model=str(tmp_path / "two")).judge(make_tiny_llama())
    with pytest.raises(Failure, match="doesn't fit"):
        Reward(model=saved(tmp_path / "narrow", width=32)).judge(make_tiny_llama())
