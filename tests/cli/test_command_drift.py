"""`posttrain drift`."""

from __future__ import annotations

import pytest


@pytest.fixture
def many(tmp_path):
    path = tmp_path / "many.txt"
    path.write_text("".join(f"The fox number {n} runs over field {n % 7}.\n" for n in range(25)))
    return path


def test_drift(invoke, model, many, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("".join(f"q%zX@#vK~ {n}{n} q%zX@#vK~ q%zX\n" for n in range(25)))
    result = invoke("drift", model, many, other, "--json").json
    assert result["alarm"] and result["quantities"]["tokens"]["verdict"] == "strong"
    assert invoke("drift", model, many, many, "--json").json["verdict"] == "none"
    lines = invoke("drift", model, many, other).out.splitlines()
    assert lines[0] == f"drift: {result['verdict']}"
    assert "The reference set has 3 texts" in invoke("drift", model, many, other, "--limit", 3).refused(2)
