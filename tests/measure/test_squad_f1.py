"""SQuAD F1 as a metric; the F1 of two answers is tested with `ops.answers`."""

from __future__ import annotations

import pytest

from posttrain.measure.squad_f1 import SquadF1


def test_by_hand():
    """0.5 of the nearer of two references, 1 for silence where there is no answer, 0 for speaking there."""
    predictions = ["in the year 1999", "", "something"]
    references = [["1998 indeed", "1999"], [""], [""]]
    assert SquadF1().score(predictions, references).value == pytest.approx(100 * 1.5 / 3)
