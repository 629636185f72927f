"""Learning-rate schedules: hand-worked factors, and the contract on every one the folder holds."""

from __future__ import annotations

import math

import pytest

from posttrain.core import catalog


@pytest.mark.parametrize("term", catalog.terms("schedule"))
def test_contract(term):
    """Warm-up rises in equal parts without starting at zero; factors stay within [0, 1]; no warm-up starts at 1."""
    schedule = catalog.build("schedule", {term: {"warmup": 4}})
    factors = [schedule.factor(step, 20) for step in range(20)]
    assert factors[:4] == pytest.approx([1 / 5, 2 / 5, 3 / 5, 4 / 5])
    assert factors[4] == 1
    assert all(0 <= f <= 1 for f in factors)
    assert catalog.build("schedule", term).factor(0, 20) == 1
    share = catalog.build("schedule", {term: {"warmup": 0.2}})
    assert [share.factor(s, 20) for s in range(20)] == factors


def test_constant():
    assert catalog.build("schedule", "constant").factor(19, 20) == 1


def test_linear():
    """Ten steps from 1 towards 0.5: a twentieth down each."""
    schedule = catalog.build("schedule", {"linear": {"floor": 0.5}})
    assert [schedule.factor(s, 10) for s in (0, 1, 5, 9)] == pytest.approx([1, 0.95, 0.75, 0.55])


def test_cosine():
    """Halfway the cosine is 0, so the factor is (1 + floor) / 2."""
    schedule = catalog.build("schedule", {"cosine": {"floor": 0.1}})
    assert schedule.factor(5, 10) == pytest.approx(0.55)
    assert schedule.factor(9, 10) == pytest.approx(0.1 + 0.9 * (1 + math.cos(0.9 * math.pi)) / 2)


def test_warmup_stable_decay():
    """The last fifth of ten steps falls: 1 at step 8, 0.5 at step 9."""
    schedule = catalog.build("schedule", "warmup_stable_decay")
    assert [schedule.factor(s, 10) for s in (0, 7, 8, 9)] == pytest.approx([1, 1, 1, 0.5])
