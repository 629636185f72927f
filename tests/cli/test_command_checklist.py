"""`posttrain checklist`."""

from __future__ import annotations

import pytest
import yaml

from posttrain.models.heads import give_head
from posttrain.models.saving import save
from tiny_models import make_tiny_bert

SUITE = {
    "summary": "s",
    "version": "1",
    "ask": {"choices": {"positive": "good", "negative": "bad"}},
    "labels": {"positive": ["pos"], "negative": ["neg"]},
    "lexicons": {"word": ["fine", "sad", "great"]},
    "tests": [
        {"name": "up", "capability": "words", "templates": ["{{ word }} film"], "expect": "positive"},
        {"name": "down", "capability": "words", "templates": ["{{ word }} film"], "expect": "negative"},
    ],
}


@pytest.fixture
def suite(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(SUITE, sort_keys=False))
    return path


@pytest.fixture
def classifier(tmp_path):
    network = make_tiny_bert()
    give_head(network, "sequence_classification", ("A", "B"), "single_label_classification")
    save(network, tmp_path / "classifier")
    return tmp_path / "classifier"


def test_json(invoke, model, suite):
    result = invoke("checklist", model, suite, "--examples", 1, "--json").json
    assert (result["failures"], result["n"], result["failure_rate"]) == (3, 6, 0.5)
    assert result["interval"] == pytest.approx([0.1876, 0.8124], abs=1e-4)
    assert all(len(test["failing"]) <= 1 for test in result["tests"])
    assert result["capabilities"]["words"]["n"] == 6
    few = invoke("checklist", model, suite, "--samples", 2, "--seed", 3, "--json").json
    assert few["n"] == 4
    assert "|seed:3|" in few["signature"]


def test_human_form(invoke, model, suite):
    lines = invoke("checklist", model, suite, "--chat").out.splitlines()
    assert lines[0].split()[:2] == ["capability", "failure"]
    assert any(line.strip().startswith("expected: ") for line in lines)
    assert "|chat:true|" in lines[-1]


def test_a_classifier(invoke, classifier, suite):
    refused = invoke("checklist", classifier, suite, "--json").refused(2)
    assert "The classifier has no label 'positive'; its labels are A, B." in refused
    names = ["--set", "labels.positive=B", "--set", "labels.negative=A"]
    assert invoke("checklist", classifier, suite, *names, "--json").json["failures"] == 3


def test_a_wrong_suite_is_refused_before_the_model_is_looked_for(invoke):
    assert "There is no suite 'x'" in invoke("checklist", "no-such-model", "x").refused(2)
