"""The card of a model as Markdown: every section from a card, figures found in results, nothing invented."""

from __future__ import annotations

from typing import Any

import yaml

from posttrain.registry.model_card import Evidence, evidence, model_card

CARD: dict[str, Any] = {
    "name": "assistant",
    "root": {"reference": "hub:owner/base"},
    "license": "apache-2.0",
    "created": "2026-03-01T10:00:00+00:00",
    "key": "abc",
    "versions": {"posttrain": "0.1.0"},
    "history": [
        {
            "name": "tuned",
            "made_by": {"train": {"adapt": {"lora": {"rank": 8}}, "regularizers": [{"l2_sp": {}}], "steps": 3}},
            "inputs": {"data": {"source": "my|data.jsonl", "hash": "0123456789abcdef"}, "reward": "key"},
            "seed": 7,
            "key": "t",
            "energy": {"kwh": 0.002, "co2_g": 0.5, "how": "estimated"},
        }
    ],
}


def test_sections_say_what_the_card_says() -> None:
    text = model_card(CARD, [Evidence("before", "perplexity", 25.678, (24.0, 27.5), "sig|1")], "For **tests**.")
    front = yaml.safe_load(text.split("---\n")[1])
    assert front == {
        "license": "apache-2.0",
        "base_model": "owner/base",
        "library_name": "posttrain",
        "tags": ["posttrain", "train"],
    }
    assert "# assistant" in text
    assert "| tuned | train | adapt: lora, regularizers: l2_sp | 7 |" in text
    assert "| tuned | data | `my\\|data.jsonl` | `0123456789ab` |" in text  # a bar would end the cell
    assert "| before | perplexity | 25.68 | 24 to 27.5 | `sig\\|1` |" in text
    assert "## Intended use\n\nFor **tests**." in text
    assert "2 Wh and 0.5 g of CO₂ (estimated)" in text  # 0.002 kWh
    assert "rank: 8" in text


def test_what_is_not_known_is_said() -> None:
    text = model_card({"name": "plain", "root": {"reference": "./folder"}})
    assert "base_model" not in text
    assert "not recorded; see the model it was made from" in text
    assert "None are recorded here" in text
    assert "The end of its knowledge is not recorded" in text
    assert "How it was made" not in text
    assert "Energy" not in text
    assert "ends with 2024-06" in model_card({"knowledge_cutoff": "2024-06"})


def test_rounded_weights_are_a_limit() -> None:
    assert "rounded" in model_card({**CARD, "surgery": [{"quantize": {"dynamic": {}}}]})
    assert "rounded" not in model_card(CARD)


def test_evidence_is_every_figure_with_a_signature() -> None:
    result = {
        "perplexity": {"name": "perplexity", "value": 20.0, "interval": [19.0, 21.0], "signature": "p"},
        "tasks": {"quiz": {"score": 0.5, "signature": "q", "interval": None}},
        "seconds": 3.0,
        "unsigned": {"value": 1.0},
        "text": {"value": "words", "signature": "x"},
    }
    assert evidence("step", result) == [
        Evidence("step", "perplexity", 20.0, (19.0, 21.0), "p"),
        Evidence("step", "quiz", 0.5, None, "q"),
    ]
    assert evidence("step", {"value": 2.0, "signature": "s"}) == [Evidence("step", "step", 2.0, None, "s")]
