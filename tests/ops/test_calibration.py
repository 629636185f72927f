"""Expected calibration error, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from posttrain.ops.calibration import expected_calibration_error


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
