"""The train step with objectives that have metrics of their own: headline, baseline, curves, early stopping."""

from __future__ import annotations

import pytest

import posttrain
from posttrain.pipeline.single_step import single_step
from tiny_models import make_tiny_bert, make_tiny_llama

WORDS = ["the dog is good", "a good film", "bad film", "the fox was bad", "good", "very bad", "good dog"]


@pytest.fixture
def files(tmp_path):
    def write(name, rows):
        import json

        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return {
        "classes": write("c.jsonl", [{"text": t, "label": "pro" if "good" in t else "contra"} for t in WORDS]),
        "numbers": write("n.jsonl", [{"text": t, "label": 1.5 if "good" in t else -1.5} for t in WORDS]),
        "tags": write(
            "t.jsonl",
            [{"tokens": t.split(), "tags": ["B-X" if w in ("dog", "fox") else "O" for w in t.split()]} for t in WORDS],
        ),
    }


def _outcome(model, data, objective, **settings):
    settings = {"steps": 40, "learning_rate": 5e-3, "batch_size": 7, "evaluate_every": 10, **settings}
    values = {"data": data, "objective": objective, "adapt": "full", "validation": data, **settings}
    return single_step("train", values, model)


@pytest.mark.parametrize("make", [make_tiny_bert, make_tiny_llama])
def test_accuracy_is_the_headline_with_the_majority_beside_it(files, make):
    outcome = _outcome(make(), files["classes"], "sequence_classification")
    found = outcome.result
    assert found["baseline_accuracy"] == pytest.approx(4 / 7) and found["validation_accuracy_after"] == 1.0
    before = found["validation_accuracy_before"]
    assert outcome.headline == f"held-out accuracy {before:.3g} → 1 (majority baseline 0.571)"
    curves = {view["title"]: view for view in outcome.views if view["kind"] == "curve"}
    series = curves["Held-out accuracy"]["series"]
    assert [x for x, _ in series["held-out"]] == [0, 10, 20, 30, 40] and series["held-out"][0][1] == before
    assert series["majority baseline"] == [[0, pytest.approx(4 / 7)], [40, pytest.approx(4 / 7)]]
    assert curves["Loss"]["y_label"] == "loss a text" and "nats a token" not in str(outcome.views)
    said = [each.label for each in posttrain.classify(outcome.model, ["good dog", "very bad"])]
    assert said == ["pro", "contra"]


def test_numbers_have_the_mean_beside_them(files):
    outcome = _outcome(make_tiny_bert(), files["numbers"], "sequence_classification")
    assert outcome.headline.startswith("held-out mse") and "(mean baseline 2.2)" in outcome.headline
    assert outcome.result["validation_pearson_after"] > 0.9


def test_spans(files):
    outcome = _outcome(make_tiny_bert(), files["tags"], "token_classification", steps=60)
    assert outcome.result["validation_f1_after"] == 1.0 and outcome.result["baseline_f1"] == 0.0
    assert outcome.headline.startswith("held-out f1") and outcome.headline.endswith("→ 1 (majority baseline 0)")


def test_without_validation(files):
    outcome = _outcome(make_tiny_bert(), files["classes"], "sequence_classification", validation=None)
    assert outcome.headline.startswith("training loss") and "baseline_accuracy" not in outcome.result


def test_early_stopping_knows_that_more_accuracy_is_better(files):
    """It is 1 after a few evaluations; patience 2 then ends the run, and the best state is that of the first 1."""
    stopping = {"metric": "accuracy", "patience": 2}
    outcome = _outcome(
        make_tiny_bert(), files["classes"], "sequence_classification", steps=400, early_stopping=stopping
    )
    found = outcome.result
    accuracies = [entry["accuracy"] for entry in found["evaluations"]]
    assert found["stopped_early"] and found["validation_accuracy_after"] == max(accuracies) == 1.0
    assert accuracies.index(1.0) == len(accuracies) - 3
