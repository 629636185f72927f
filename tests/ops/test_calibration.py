"""Expected calibration error, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from posttrain.ops.calibration import (
    brier_scores,
    calibration_terms,
    error_if_calibrated,
    expected_calibration_error,
    reliability,
)


def test_by_hand() -> None:
    """Two bins: (0, 0.5] holds 0.3 right and 0.5 wrong, |0.5 - 0.4| = 0.1; (0.5, 1] holds 0.9, 0.8 right and 0.7 wrong,
    |2/3 - 0.8|. Weighted by 2/5 and 3/5: 0.04 + 0.08."""
    confidences, correct = [0.3, 0.5, 0.9, 0.8, 0.7], [True, False, True, True, False]
    assert expected_calibration_error(confidences, correct, bins=2) == pytest.approx(0.12)


def test_a_calibrated_predictor_has_little_and_a_boastful_one_much() -> None:
    generator = np.random.default_rng(0)
    sure = generator.uniform(0.5, 1, 20_000)
    right = generator.random(20_000) < sure
    assert expected_calibration_error(sure, right) < 0.02
    assert expected_calibration_error(np.ones(20_000), right) == pytest.approx(1 - right.mean())


def test_edges_of_bins() -> None:
    """0 counts to the first of ten bins, 0.1 too, 1 to the last."""
    assert expected_calibration_error([0.0, 0.1], [True, False], bins=10) == pytest.approx(0.45)
    assert expected_calibration_error([1.0], [True], bins=10) == 0.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], []), "n at least 1"),
        (([0.5], [True, False]), "n at least 1"),
        (([1.5], [True]), r"\[0, 1\]"),
        (([float("nan")], [True]), r"\[0, 1\]"),
        (([0.5], [True], 0), "bins"),
    ],
)
def test_refusals(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        expected_calibration_error(*arguments)


def test_terms_add_up_to_the_error() -> None:
    """Columns of the example above: 1 - 0.3 + 0 - 0.5 = 0.2 in the first bin, 0.1 + 0.2 - 0.7 = -0.4 in the other."""
    terms = calibration_terms([0.3, 0.5, 0.9, 0.8, 0.7], [True, False, True, True, False], bins=2)
    assert terms.shape == (5, 2)
    assert terms.sum(0) == pytest.approx([0.2, -0.4])
    assert (terms != 0).sum(1).tolist() == [1] * 5


def test_reliability_leaves_empty_bins_out() -> None:
    first, last = reliability([0.3, 0.9, 0.8, 0.7], [True, True, True, False], bins=3)
    assert (first.low, first.high, first.count) == (pytest.approx(0.0), pytest.approx(1 / 3), 1)
    assert (first.confidence, first.accuracy) == (pytest.approx(0.3), 1.0)
    assert last.count == 3 and last.accuracy == pytest.approx(2 / 3) and last.confidence == pytest.approx(0.8)


def test_reliability_keeps_every_prediction() -> None:
    bins = reliability([0.3, 0.5, 0.9, 0.8, 0.7], [True, False, True, True, False], bins=4)
    assert sum(each.count for each in bins) == 5


@pytest.mark.parametrize("count", [1, 40])
def test_the_error_of_a_calibrated_model(count: int) -> None:
    """One prediction of 0.8 errs by 0.2 with probability 0.8 and by 0.8 with 0.2: 0.32. Forty of them in one bin: the
    mean absolute deviation of a binomial share, close to the normal's, sqrt(2 / pi * 0.8 * 0.2 / 40) = 0.0505."""
    expected = {1: 0.32, 40: 0.0505}[count]
    assert error_if_calibrated([0.8] * count, bins=10, draws=20_000) == pytest.approx(expected, rel=0.03)


def test_brier_by_hand() -> None:
    """(0.7 - 1)^2 + 0.2^2 + 0.1^2 = 0.14; equal thirds (2/3)^2 + 2/9 = 2/3; sure and wrong 2."""
    scores = brier_scores([[0.7, 0.2, 0.1], [1 / 3] * 3, [1.0, 0.0]], [0, 2, 1])
    assert scores == pytest.approx([0.14, 2 / 3, 2.0])


@pytest.mark.parametrize(
    ("probabilities", "right", "message"),
    [
        ([[0.5, 0.5]], [2], "no class 2 of 2"),
        ([[0.5, 0.6]], [0], "no probabilities"),
        ([[0.5, 0.5]], [0, 1], "as many outcomes"),
        ([[float("nan"), 1.0]], [0], "no probabilities"),
    ],
)
def test_brier_refusals(probabilities, right, message) -> None:
    with pytest.raises(ValueError, match=message):
        brier_scores(probabilities, right)
