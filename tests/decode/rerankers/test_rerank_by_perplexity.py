"""Perplexity of another model: against a float64 pass over each answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from posttrain.core.errors import BadRequest
from posttrain.decode.rerankers.perplexity import Perplexity
from posttrain.decode.sequence import Ending, Generated
from posttrain.models.saving import save
from tiny_models import make_tiny_bert, make_tiny_llama

TEXTS = ["The dog sleeps.", "fox", "A language model predicts the next token"]


@pytest.fixture
def reranker(tmp_path: Path) -> Perplexity:
    save(make_tiny_llama(seed=3), tmp_path / "other")
    return Perplexity(model=str(tmp_path / "other"), tokens_per_pass=24)


def answers(tokenizer: Any, texts: list[str]) -> list[Generated]:
    found = [Generated(0, number, [5], Ending(99), tokenizer) for number in range(len(texts))]
    for answer, text in zip(found, texts):
        for token in tokenizer(text)["input_ids"]:
            answer.append(token, 0.0)
    return found


def mean_logprob(model: Any, before: str, text: str) -> float:
    """Of the tokens of `text` after `before`, where the two don't share a token."""
    known, ids = (model.tokenizer(t, add_special_tokens=False)["input_ids"] for t in (before, before + text))
    assert ids[: len(known)] == known
    with torch.no_grad():
        logprobs = model.network.double()(torch.tensor([ids])).logits[0].log_softmax(-1)
    scored = [float(logprobs[place - 1, ids[place]]) for place in range(len(known), len(ids))]
    return sum(scored) / len(scored)


def test_equals_a_pass_over_each_answer(tiny_llama: Any, reranker: Perplexity) -> None:
    judge = reranker.judge(tiny_llama)
    scores = reranker.scores(judge, "What?\n", answers(tiny_llama.tokenizer, TEXTS))
    asked = reranker.scores(judge, [{"role": "user", "content": "What?"}], answers(tiny_llama.tokenizer, TEXTS))
    header = "<|im_start|>user\nWhat?<|im_end|>\n<|im_start|>assistant\n"
    other = make_tiny_llama(seed=3)
    assert scores == pytest.approx([mean_logprob(other, "What?\n", text) for text in TEXTS], abs=1e-4)
    assert asked == pytest.approx([mean_logprob(other, header, text) for text in TEXTS], abs=1e-4)


def test_an_empty_answer_is_out_of_the_question(tiny_llama: Any, reranker: Perplexity) -> None:
    scores = reranker.scores(reranker.judge(tiny_llama), "What?\n", answers(tiny_llama.tokenizer, ["", "A"]))
    assert scores[0] == -float("inf") < scores[1]


def test_the_other_must_be_causal(tiny_llama: Any, tmp_path: Path) -> None:
    save(make_tiny_bert(), tmp_path / "bert")
    with pytest.raises(BadRequest, match="no causal language model"):
        Perplexity(model=str(tmp_path / "bert")).judge(tiny_llama)
