"""Scores of classes: by hand and against scikit-learn."""

from __future__ import annotations

import random

import numpy as np
import pytest

from posttrain.core.errors import BadRequest
from posttrain.measure.classification import Classification, class_scores


def test_by_hand():
    """a: 2 of 3 found, 2 of 2 predicted right; b: 1 of 1 found, 1 of 2. F1 4/5 and 2/3; correlation 6 / sqrt(8 * 6)."""
    found = class_scores(["a", "a", "b", "b"], ["a", "a", "a", "b"])
    assert found["accuracy"] == found["micro_f1"] == 0.75
    assert found["macro_f1"] == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert found["weighted_f1"] == pytest.approx((3 * 4 / 5 + 2 / 3) / 4)
    assert found["macro_precision"] == pytest.approx((1 + 1 / 2) / 2)
    assert found["macro_recall"] == pytest.approx((2 / 3 + 1) / 2)
    assert found["mcc"] == pytest.approx((3 * 4 - (2 * 3 + 2 * 1)) / ((16 - 8) * (16 - 10)) ** 0.5)


@pytest.mark.parametrize("classes", [2, 5])
def test_equals_scikit_learn(classes):
    metrics = pytest.importorskip("sklearn.metrics")
    generator = random.Random(classes)
    actual = [generator.randrange(classes) for _ in range(80)]
    predicted = [a if generator.random() < 0.6 else generator.randrange(classes + 1) for a in actual]
    found = class_scores(predicted, actual)
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(actual, predicted))
    assert found["mcc"] == pytest.approx(metrics.matthews_corrcoef(actual, predicted))
    for average in ("macro", "micro", "weighted"):
        expected = metrics.precision_recall_fscore_support(actual, predicted, average=average, zero_division=0)
        for name, value in zip(("precision", "recall", "f1"), expected):
            assert found[f"{average}_{name}"] == pytest.approx(value), (average, name)


def test_one_class_on_one_side_has_no_correlation():
    assert class_scores(["a", "a"], ["a", "b"])["mcc"] == 0.0


def test_the_value_is_the_score_asked_for_and_texts_are_stripped():
    rows = ["a", "a", "b", "b"], [["a "], ["a"], ["a"], ["b"]]
    assert Classification().score(*rows).value == 0.75
    assert Classification(score_by="macro_f1").score(*rows).value == pytest.approx((4 / 5 + 2 / 3) / 2)
    many = Classification().score(["a", "b"] * 15, [["a"]] * 30)
    assert many.interval[0] < 0.5 < many.interval[1] and many.parts["texts"] == 30


def test_every_score_has_an_interval_and_systems_are_compared_over_the_classes_of_both():
    """The baseline alone predicts c; a class that neither a system nor the references have counts in no mean."""
    right, baseline, actual = ["a", "b"] * 20, ["a", "c"] * 20, [["a"], ["b"]] * 20
    for score_by in ("accuracy", "macro_f1", "weighted_f1", "mcc"):
        metric = Classification(score_by=score_by)
        alone = metric.score(baseline, actual)
        assert alone.interval[0] <= alone.value <= alone.interval[1]
        found = metric.compare(right, baseline, actual)
        assert found.baseline.value == pytest.approx(alone.value)
        assert found.system.value == pytest.approx(1.0)
        assert (found.system.parts["classes"], found.baseline.parts["classes"]) == (2, 3)
        assert found.p_value < 0.01


def test_one_reference_a_row():
    with pytest.raises(BadRequest, match="exactly one reference"):
        Classification().score(["a"], [["a", "b"]])


def test_free_texts_are_no_classes():
    texts = [str(n) for n in range(1001)]
    assert class_scores(texts, texts)["macro_f1"] == 1.0
    with pytest.raises(BadRequest, match="1001 different classes"):
        Classification().score(texts, [[text] for text in texts])


def test_scores_of_one_class():
    """Of three yes two are found, with one false alarm: precision, recall and F1 are 2/3."""
    predictions, references = ["yes", "yes", "no", "yes", "a"], [["yes"], ["yes"], ["yes"], ["no"], ["a"]]
    found = Classification(score_by="f1", positive="yes").score(predictions, references)
    assert found.value == found.parts["precision"] == found.parts["recall"] == pytest.approx(2 / 3)
    assert found.parts["accuracy"] == pytest.approx(3 / 5)
    with pytest.raises(BadRequest, match="No row is 'maybe' or predicted as it"):
        Classification(positive="maybe").score(predictions, references)
    with pytest.raises(BadRequest, match="recall is that of one class, so name it"):
        Classification.parse({"score_by": "recall"})


@pytest.mark.parametrize("score_by", ["f1", "precision", "recall"])
def test_scores_of_one_class_equal_scikit_learn(score_by):
    metrics = pytest.importorskip("sklearn.metrics")
    generator = np.random.default_rng(3)
    predicted, actual = (generator.choice(["no", "yes"], size=200).tolist() for _ in range(2))
    found = Classification(score_by=score_by, positive="yes").score(predicted, [[each] for each in actual])
    theirs = {"f1": metrics.f1_score, "precision": metrics.precision_score, "recall": metrics.recall_score}[score_by]
    assert found.value == pytest.approx(theirs(actual, predicted, pos_label="yes"))
    assert found.stderr is not None and found.interval is not None
    # Percentiles of a nearly normal statistic lie 1.96 standard errors from it.
    assert found.interval[1] - found.interval[0] == pytest.approx(2 * 1.96 * found.stderr, rel=0.1)
