"""Drift: what is found where there is some, where there is none, and where there is too little to tell."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

from posttrain.core.errors import BadRequest
from posttrain.registry.drift import Population, compare_populations


def population(center: float, count: int, seed: int, labels: str = "ab") -> Population:
    draw = np.random.default_rng(seed)
    classes = Counter(draw.choice(list(labels), count).tolist())
    return Population(
        {"loss": draw.normal(center, 1, count), "length": draw.poisson(20, count)}, {"label": classes}, count
    )  # type: ignore[dict-item]


def test_no_drift() -> None:
    found = compare_populations(population(0, 200, 0), population(0, 200, 1))
    assert (found.verdict, found.alarm) == ("none", False)
    assert set(found.quantities) == {"loss", "length", "label"}
    assert found.quantities["loss"].live_is_higher == pytest.approx(0.5, abs=0.1)


def test_strong_drift_of_one_quantity() -> None:
    """The loss rises by two standard deviations: P(live > reference) = Φ(2/√2) = 0.92."""
    found = compare_populations(population(0, 200, 0), population(2, 200, 1))
    assert (found.verdict, found.alarm) == ("strong", True)
    loss = found.quantities["loss"]
    assert loss.live_is_higher == pytest.approx(0.921, abs=0.03)
    assert loss.p_value == pytest.approx(3 / 2001)  # the smallest there is, for three quantities
    assert [found.quantities[name].verdict for name in ("length", "label")] == ["none", "none"]
    json.dumps(found.to_dict(), allow_nan=False)


def test_labels_drift() -> None:
    found = compare_populations(population(0, 300, 0), population(0, 300, 1, labels="aaaab"))
    label = found.quantities["label"]
    assert label.verdict == "strong"
    assert label.live_is_higher is None
    assert label.live["a"] == pytest.approx(0.8, abs=0.08)
    assert label.distance == pytest.approx(label.live["a"] - label.reference["a"])  # type: ignore[index]


def test_a_small_difference_of_many_texts_is_slight() -> None:
    found = compare_populations(population(0, 6000, 0), population(0.15, 6000, 1), permutations=400)
    assert (found.quantities["loss"].verdict, found.alarm) == ("slight", False)
    assert found.quantities["loss"].p_value < 0.01


def test_a_large_index_of_few_texts_is_no_drift() -> None:
    found = compare_populations(population(0, 20, 5), population(0, 20, 6), bins=10)
    loss = found.quantities["loss"]
    assert loss.psi > 0.1 and loss.psi_by_chance == pytest.approx(3 * 2 / 20)  # 20 texts make four bins
    assert loss.verdict == "none"


def test_only_what_both_have_is_compared() -> None:
    first, second = population(0, 30, 0), population(0, 30, 1)
    bare = Population({"length": second.numbers["length"]}, {}, 30)
    assert set(compare_populations(first, bare).quantities) == {"length"}
    with pytest.raises(BadRequest, match="no quantity in common"):
        compare_populations(first, Population({}, {}, 30))


def test_what_can_tell_nothing_is_refused() -> None:
    with pytest.raises(BadRequest, match="The live set has 19 texts"):
        compare_populations(population(0, 30, 0), population(0, 19, 1))
    with pytest.raises(BadRequest) as refused:
        compare_populations(population(0, 30, 0), population(0, 30, 1), permutations=100)
    assert "no p-value is below 0.01" in refused.value.problem and "at least 300" in refused.value.suggestion
