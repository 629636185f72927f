"""Sequence classification: losses and metrics by hand, against transformers and scikit-learn, and what is refused."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch.nn import functional

from posttrain.adapt.full import Full
from posttrain.core.errors import BadRequest
from posttrain.data import dataset
from posttrain.data.collate import Batches
from posttrain.data.packing import Packed
from posttrain.models.heads import label_names
from posttrain.train.loop import Loop, evaluate, train
from posttrain.train.objectives import Encoding, Prediction
from posttrain.train.objectives.sequence_classification import SequenceClassification
from tiny_models import make_tiny_bert, make_tiny_llama

WORDS = ["the dog is good", "a very bad film", "the fox was a fox", "good", "the film is very very good and long"]
NAMED = [{"text": text, "label": label} for text, label in zip(WORDS, ["good", "bad", "none", "good", "good"])]
SEVERAL = [{"text": t, "label": each} for t, each in zip(WORDS, [["a"], [], ["a", "b"], ["b"], ["a", "c"]])]
NUMBERS = [{"text": text, "label": value} for text, value in zip(WORDS, [0.5, -1.0, 2.0, 3, 0.25])]
PAIRS = [{"text": a, "text_pair": b, "label": i % 2} for i, (a, b) in enumerate(zip(WORDS, WORDS[::-1]))]


def _prepared(make, rows, objective=None):
    objective = objective or SequenceClassification()
    model, read = make(), dataset.read(rows)
    torch.manual_seed(0)
    objective.prepare(model, read)
    return model, objective.encode(read, model, Encoding(max_length=64))


@pytest.mark.parametrize("make", [make_tiny_bert, make_tiny_llama])
@pytest.mark.parametrize(
    ("rows", "kind"),
    [
        (NAMED, "single_label_classification"),
        (SEVERAL, "multi_label_classification"),
        (NUMBERS, "regression"),
        (PAIRS, "single_label_classification"),
    ],
    ids=["single", "several", "number", "pair"],
)
def test_the_loss_is_transformers_own(make, rows, kind):
    """The class's own forward on a padded batch, labels and all; its loss is the mean over texts."""
    objective = SequenceClassification()
    model, items = _prepared(make, rows)
    network = model.network
    assert network.config.problem_type == kind
    batch = objective.collate(items)
    prediction = objective.predict(network, batch, layers=True)
    texts = [row["text"] for row in rows], *([[row["text_pair"] for row in rows]] if "text_pair" in rows[0] else [])
    inputs = model.tokenizer(*texts, padding=True, return_tensors="pt")
    if make is make_tiny_llama:
        inputs.pop("token_type_ids", None)
    labels = prediction.targets
    with torch.no_grad():
        theirs = network(**inputs, labels=labels)
    torch.testing.assert_close(prediction.logits, theirs.logits, atol=1e-5, rtol=1e-5)
    value, _ = objective.loss_of(prediction, batch)
    assert float(value.detach()) / objective.weight(batch) == pytest.approx(float(theirs.loss), abs=1e-5)
    assert len(prediction.layers) == 3 and all(len(states) == batch.tokens for states in prediction.layers)


def test_what_is_learned():
    model, items = _prepared(make_tiny_bert, NAMED)
    assert label_names(model.network) == ["bad", "good", "none"]
    assert [item.extras["label"] for item in items] == [1, 0, 2, 1, 1]
    model, items = _prepared(make_tiny_bert, SEVERAL)
    assert [[item.extras[f"label/{i}"] for i in range(3)] for item in items][2:] == [[1, 1, 0], [0, 1, 0], [1, 0, 1]]
    model, items = _prepared(make_tiny_bert, NUMBERS)
    assert [item.extras["label"] for item in items] == [0.5, -1.0, 2.0, 3.0, 0.25]
    assert model.network.config.num_labels == 1
    model, items = _prepared(make_tiny_bert, PAIRS)
    first = items[0]
    assert first.input_ids.count(3) == 2 and first.extras["token_type_ids"][-1] == 1  # two [SEP], the second part is 1


def _batch(segments: int) -> Packed:
    return Packed(torch.zeros(segments, dtype=torch.long), torch.zeros(segments), torch.arange(segments + 1))


def _summary(objective, targets, logits):
    value, sums = objective.loss_of(
        Prediction(targets, torch.zeros(len(targets), 1), logits=logits), _batch(len(targets))
    )
    return objective.summarize({"loss": float(value), **sums}, len(targets))


def test_classes_by_hand():
    """Logits (ln 3, 0) give 3/4 to class 0: losses ln 4/3 where that is right and ln 4 where it isn't.

    Said is always 0: class 0 has F1 2·2/(3+2) = 4/5, class 1 none.
    """
    logits = torch.tensor([[math.log(3), 0.0]] * 3)
    found = _summary(SequenceClassification(), torch.tensor([0, 0, 1]), logits)
    assert found["loss"] == pytest.approx((2 * math.log(4 / 3) + math.log(4)) / 3)
    assert (found["accuracy"], found["macro_f1"]) == (pytest.approx(2 / 3), pytest.approx(0.4))
    smooth = _summary(SequenceClassification(label_smoothing=0.2), torch.tensor([0, 0, 1]), logits)
    right, wrong = 0.9 * math.log(4 / 3) + 0.1 * math.log(4), 0.1 * math.log(4 / 3) + 0.9 * math.log(4)
    assert smooth["loss"] == pytest.approx((2 * right + wrong) / 3)


def test_several_labels_by_hand():
    """A logit of 0 costs ln 2; one of three is right exactly, micro F1 2·2/(3+3)."""
    logits = torch.tensor([[1.0, -1.0], [1.0, 1.0], [-1.0, -1.0]])
    targets = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    found = _summary(SequenceClassification(), targets, logits)
    assert found["exact_match"] == pytest.approx(1 / 3) and found["micro_f1"] == pytest.approx(2 / 3)
    assert _summary(SequenceClassification(), targets, torch.zeros(3, 2))["loss"] == pytest.approx(math.log(2))


def test_numbers_by_hand():
    """Against 0, 1, 2, predicted 1, 1, 3: errors 1, 0, 1; covariance 2/3 over sqrt(8/9 · 2/3)."""
    found = _summary(SequenceClassification(), torch.tensor([0.0, 1.0, 2.0]), torch.tensor([[1.0], [1.0], [3.0]]))
    assert found["mse"] == found["loss"] == pytest.approx(2 / 3)
    assert found["pearson"] == pytest.approx((2 / 3) / math.sqrt(8 / 9 * 2 / 3))
    flat = _summary(SequenceClassification(), torch.tensor([0.0, 1.0]), torch.tensor([[1.0], [1.0]]))
    assert flat["pearson"] == 0.0


def test_metrics_equal_scikit_learn_however_they_are_summed():
    metrics = pytest.importorskip("sklearn.metrics")
    generator = torch.Generator().manual_seed(0)
    objective = SequenceClassification()
    logits, targets = torch.randn(50, 4, generator=generator), torch.randint(0, 3, (50,), generator=generator)
    sums: dict[str, float] = {}
    for part in (slice(0, 7), slice(7, 50)):
        value, more = objective.loss_of(Prediction(targets[part], logits[part], logits=logits[part]), _batch(1))
        for key, number in {"loss": float(value), **more}.items():
            sums[key] = sums.get(key, 0.0) + number
    found = objective.summarize(sums, 50)
    said = logits.argmax(1)
    assert found["loss"] == pytest.approx(float(functional.cross_entropy(logits, targets)), abs=1e-6)
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(targets, said))
    assert found["macro_f1"] == pytest.approx(metrics.f1_score(targets, said, average="macro"))
    wanted = (torch.randn(50, 4, generator=generator) > 0).float()
    several = _summary(objective, wanted, logits)
    assert several["micro_f1"] == pytest.approx(metrics.f1_score(wanted, logits > 0, average="micro"))
    assert several["exact_match"] == pytest.approx(metrics.accuracy_score(wanted, logits > 0))


def test_baselines():
    objective = SequenceClassification()
    assert objective.baseline(_prepared(make_tiny_bert, NAMED)[1]) == {"accuracy": 0.6}
    assert objective.baseline(_prepared(make_tiny_bert, [*SEVERAL, SEVERAL[0]])[1]) == {
        "exact_match": pytest.approx(1 / 3)
    }
    mean = (0.5 - 1 + 2 + 3 + 0.25) / 5
    expected = sum((x - mean) ** 2 for x in (0.5, -1, 2, 3, 0.25)) / 5
    assert objective.baseline(_prepared(make_tiny_bert, NUMBERS)[1]) == {"mse": pytest.approx(expected)}
    assert objective.baseline_name("mse") == "mean" and objective.baseline_name("accuracy") == "majority"


@pytest.mark.parametrize("make", [make_tiny_bert, make_tiny_llama])
def test_it_learns_and_splitting_changes_nothing(make):
    results = []
    for budget in (4096, 12):
        model, items = _prepared(make, NAMED)
        Full().apply(model.network)
        objective = SequenceClassification()
        batches = Batches(items, 5, budget, seed=0)
        assert (len(next(iter(Batches(items, 5, budget)))) > 1) == (budget == 12)
        found = train(model.network, objective, batches, Loop(steps=25, learning_rate=5e-3))
        results.append([entry["loss"] for entry in found.history])
        assert evaluate(model.network, objective, [objective.collate(items)])["accuracy"] == 1.0
    assert results[0][:5] == pytest.approx(results[1][:5], abs=1e-4)


def test_whole_numbers_are_indices_of_labels_that_the_model_names():
    model, _ = _prepared(make_tiny_bert, NAMED)
    numbered = dataset.read([{"text": text, "label": i % 3} for i, text in enumerate(WORDS)])
    SequenceClassification().prepare(model, numbered)
    items = SequenceClassification().encode(numbered, model, Encoding())
    assert [item.extras["label"] for item in items] == [0, 1, 2, 0, 1] and "none" in label_names(model.network)


@pytest.mark.parametrize(
    ("rows", "objective", "sentence"),
    [
        ([{"text": "a", "label": "x"}, {"text": "b", "label": "x"}], {}, "All 2 records .* have the label 'x'"),
        ([{"text": "a", "label": "x"}, {"text": "b", "label": 1}], {}, "rows:2: the label 1 is a number, but rows:1"),
        ([{"text": "a", "label": ["x"]}, {"text": "b", "label": "y"}], {}, "rows:2: the label 'y' is a name"),
        ([{"text": "a", "label": 0.5}, {"text": "b", "label": 1}], {"problem": "single_label"}, "rows:1: .*to predict"),
        ([{"text": "a", "label": []}, {"text": "b", "label": []}], {}, "No record of rows has a label"),
        ([{"prompt": "a", "completion": "b"}], {}, "rows:1: a completion record has no label"),
    ],
)  # fmt: skip
def test_labels_that_cant_be_learned(rows, objective, sentence):
    with pytest.raises(BadRequest, match=sentence):
        SequenceClassification(**objective).prepare(make_tiny_bert(), dataset.read(rows))


def test_an_empty_text_is_refused():
    with pytest.raises(BadRequest, match="rows:1: 'text' is empty"):
        dataset.read([{"text": " ", "label": 1}])


def test_a_label_that_training_lacks_is_named_with_its_place(tmp_path):
    model, _ = _prepared(make_tiny_bert, NAMED)
    path = tmp_path / "held-out.jsonl"
    path.write_text("".join(json.dumps({"text": "a", "label": label}) + "\n" for label in ("good", "goood")))
    with pytest.raises(BadRequest, match=r"held-out.jsonl:2: the label 'goood' isn't one of the model's. Did you mean"):
        SequenceClassification().encode(dataset.read(path), model, Encoding())
    with pytest.raises(BadRequest, match="'bad', 'good', 'none', but the data has 'bad', 'fair'"):
        rows = [{"text": "a", "label": "fair"}, {"text": "b", "label": "bad"}]
        SequenceClassification().prepare(model, dataset.read(rows))


def test_long_texts():
    model, _ = _prepared(make_tiny_bert, NAMED)
    read, objective = dataset.read(NAMED), SequenceClassification()
    with pytest.raises(BadRequest, match="rows:1: 6 tokens, but max_length is 5"):
        objective.encode(read, model, Encoding(max_length=5))
    short = objective.encode(read, model, Encoding(max_length=5, too_long="skip"))
    assert [item.origin for item in short] == ["rows:4"]
    cut = objective.encode(read, model, Encoding(max_length=5, too_long="truncate"))
    assert len(cut) == 5 and all(len(item) <= 5 and item.input_ids[-1] == 3 for item in cut)  # [SEP] stays the last
    with pytest.raises(BadRequest, match="can't be split"):
        objective.encode(read, model, Encoding(max_length=5, too_long="split"))
    with pytest.raises(BadRequest, match="All 4 texts are longer"):
        rows = [row for row in NAMED if row["text"] != "good"]
        objective.encode(dataset.read(rows), model, Encoding(max_length=5, too_long="skip"))
