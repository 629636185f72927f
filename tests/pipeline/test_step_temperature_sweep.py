"""temperature_sweep: the rule by hand, and a sweep with a tiny model."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch

from posttrain.core.errors import BadRequest
from posttrain.pipeline.report import render_report
from posttrain.pipeline.single_step import single_step
from posttrain.pipeline.steps.temperature_sweep import TemperatureSweep, compromise, recommendation

PROMPTS = ["The dog", "The fox runs", "A language model"]
SETTINGS: dict[str, Any] = {
    "prompts": PROMPTS,
    "temperatures": [2.0, 0.0, 1.0],
    "samples": 3,
    "max_new_tokens": 8,
    "chat": False,
}


def test_the_compromise_by_hand() -> None:
    """Quality 0, -1, -4 is 0, 1/4, 1 away from the best on the scale, variety 0.2, 0.6, 1.0 is 1, 1/2, 0 away: the
    distances are 1, 0.559, 1. Where quality is all the same, only variety counts."""
    variety = np.array([0.2, 0.6, 1.0])
    assert compromise(np.array([[0.0, -1.0, -4.0]]), variety[None]).tolist() == [1]
    assert compromise(np.array([[3.0, 3.0, 3.0]]), variety[None]).tolist() == [2]
    assert compromise(np.array([[0.0, -1.0]]), np.array([[0.0, 1.0]])).tolist() == [0]  # the first of equals


def test_draws_of_prompts_say_how_sure_it_is() -> None:
    """All prompts agree on the second setting. Where one of two prompts says the first and the other the second, with
    neither stronger, drawing only one of them (a quarter of the draws each) decides otherwise."""
    nats = np.array([[[10.0, 10.0]] * 4, [[12.0, 10.0]] * 4, [[90.0, 10.0]] * 4])
    overlap = np.array([[90.0] * 4, [20.0] * 4, [10.0] * 4])
    assert recommendation(nats, overlap) == (1, [0, 1, 0])
    # Prompt 1: both figures are better with the first setting; prompt 2: both are better with the second, by less.
    nats = np.array([[[10.0, 10.0], [19.0, 10.0]], [[20.0, 10.0], [10.0, 10.0]]])
    overlap = np.array([[10.0, 49.0], [50.0, 10.0]])
    best, shares = recommendation(nats, overlap)
    assert best == 0
    assert shares == pytest.approx([0.75, 0.25], abs=0.05)


def test_a_sweep(tiny_llama: Any) -> None:
    found = single_step("temperature_sweep", SETTINGS, tiny_llama).result
    rows = found["temperatures"]
    assert [row["temperature"] for row in rows] == [0.0, 1.0, 2.0]
    # At 0 all answers to a prompt are the same.
    assert rows[0]["self_bleu"] == pytest.approx(100)
    assert rows[0]["self_bleu"] > rows[1]["self_bleu"]
    assert rows[0]["perplexity"] < rows[1]["perplexity"]
    assert rows[0]["intervals"]["self_bleu"] == pytest.approx([100, 100])
    assert found["recommended"] in (0.0, 1.0, 2.0)
    assert sum(row["recommended_share"] for row in rows) == pytest.approx(1)
    assert [answer["prompt"] for answer in found["answers"]] == PROMPTS
    assert json.dumps(found)


def test_quality_is_the_models_own_whatever_the_temperature(tiny_llama: Any) -> None:
    """Perplexity of the greedy answers from transformers' loss on prompt and answer."""
    outcome = single_step("temperature_sweep", {**SETTINGS, "samples": 2}, tiny_llama)
    nats, tokens = 0.0, 0
    for prompt in PROMPTS:
        ids = tiny_llama.tokenizer(prompt, return_tensors="pt")["input_ids"]
        whole = tiny_llama.network.generate(ids, max_new_tokens=8, do_sample=False)
        with torch.no_grad():
            logprobs = tiny_llama.network(whole).logits[0].log_softmax(-1)
        for place in range(ids.shape[1], whole.shape[1]):
            nats -= float(logprobs[place - 1, whole[0, place]])
            tokens += 1
    assert outcome.result["temperatures"][0]["perplexity"] == pytest.approx(math.exp(nats / tokens), rel=1e-4)


def test_the_report_draws_it(tiny_llama: Any) -> None:
    outcome = single_step("temperature_sweep", SETTINGS, tiny_llama)
    step = {
        "name": "sweep",
        "verb": "temperature_sweep",
        "seconds": 1,
        "result": outcome.result,
        "views": outcome.views,
    }
    page = render_report({"name": "run", "steps": [step]})
    assert page.count("<svg") >= 3
    assert f"Recommended: {outcome.result['recommended']:g}" in page


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"temperatures": [1, 1.0]}, "at least two different temperatures"),
        ({"temperatures": [-1, 1]}, "temperatures are numbers from 0 on"),
        ({"samples": 1}, "greater than or equal to 2"),
    ],
)
def test_refuses(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(BadRequest, match=told):
        TemperatureSweep.parse(settings, "temperature_sweep")
