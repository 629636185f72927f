"""The next token's distribution: as transformers computes it, and after processors."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from posttrain.core.errors import BadRequest, Failure
from posttrain.decode.next_token import next_token
from posttrain.decode.processors.temperature import Temperature
from posttrain.decode.processors.top_k import TopK


def scores(model: Any, text: str) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.network(model.tokenizer(text, return_tensors="pt")["input_ids"]).logits[0, -1]
    return found.double()


def test_against_transformers(lively: Any) -> None:
    chains = {"plain": [], "cold": [Temperature(temperature=0.5)], "hot": [Temperature(temperature=2)]}
    found = next_token(lively, "The dog", chains, top=7)
    logits = scores(lively, "The dog")
    order = logits.argsort(descending=True)[:7].tolist()
    assert [candidate.token_id for candidate in found.candidates] == order
    for name, temperature in {"plain": 1, "cold": 0.5, "hot": 2}.items():
        shares = (logits / temperature).softmax(-1)
        shown = [candidate.probabilities[name] for candidate in found.candidates]
        assert shown == pytest.approx(shares[order].tolist(), rel=1e-3)
        assert found.rest[name] == pytest.approx(1 - sum(shown), abs=1e-6)
        assert found.entropies[name] == pytest.approx(float(torch.special.entr(shares).sum()), rel=1e-3)
    assert found.entropies["cold"] < found.entropies["plain"] < found.entropies["hot"] < math.log(300)


def test_processors_are_applied_in_order(lively: Any) -> None:
    found = next_token(lively, "The dog", {"two": [TopK(k=2)], "one": [TopK(k=2), TopK(k=1)]}, top=3)
    assert [candidate.probabilities["one"] for candidate in found.candidates] == [1, 0, 0]
    first, second, third = (candidate.probabilities["two"] for candidate in found.candidates)
    assert first + second == pytest.approx(1) and third == 0
    assert found.rest == pytest.approx({"two": 0, "one": 0}, abs=1e-12)


def test_chat_goes_through_the_template(lively: Any) -> None:
    asked = next_token(lively, "Who?", {"plain": []}, chat=True)
    messages = [{"role": "user", "content": "Who?"}]
    text = lively.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert asked == next_token(lively, messages, {"plain": []})
    assert asked.candidates[0].token_id == int(scores(lively, text).argmax())


def test_tokens_that_are_no_text_have_a_name(lively: Any) -> None:
    names = {each.token_id: each.text for each in next_token(lively, "The", {"plain": []}, top=300).candidates}
    assert len(names) == 300
    assert names[2] == "<|im_end|>" and names[67] == "a"
    assert all(name and "\N{REPLACEMENT CHARACTER}" not in name for name in names.values())


def test_refuses(lively: Any, tiny_llama: Any) -> None:
    with pytest.raises(BadRequest, match="top must be at least 1"):
        next_token(lively, "The", {"plain": []}, top=0)
    with pytest.raises(BadRequest, match="more than the 128 of the model's context"):
        next_token(lively, "no " * 200, {"plain": []})


def test_scores_that_are_no_numbers(tiny_llama: Any) -> None:
    with torch.no_grad():
        tiny_llama.network.model.norm.weight.fill_(float("nan"))
    with pytest.raises(Failure, match="not numbers"):
        next_token(tiny_llama, "The dog", {"plain": []})
