"""`posttrain domain`."""

from __future__ import annotations

import json

import pytest

from posttrain.models.saving import save
from tiny_models import make_tiny_llama

TEXTS = ["The fox runs over the field.", "The dog sleeps.", "Rain fell all night.", "q%zX@#vK~ q%zX@#vK~"]


@pytest.fixture
def texts(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(TEXTS) + "\n")
    return path


def test_domain(invoke, model, texts, tmp_path):
    save(make_tiny_llama(seed=1), tmp_path / "other")
    out = tmp_path / "domains.jsonl"
    words = ["domain", texts, model, tmp_path / "other"]
    result = invoke(*words, "--out", out, "--json").json
    assert set(result["models"]) == {str(model), str(tmp_path / "other")}
    assert [row["domain"] for row in map(json.loads, out.read_text().splitlines())] == [
        each["domain"] for each in result["domains"]
    ]
    for each in result["domains"]:
        assert each["domain"] == min(each["domain_bits_per_byte"], key=each["domain_bits_per_byte"].get)
    wide = invoke(*words, "--min-margin", 50, "--json").json
    assert wide["undecided"] == 4
    lines = invoke(*words).out.splitlines()
    assert [line.split()[0] for line in lines[-4:]] == ["1", "2", "3", "4"]
    assert "margin in bits per byte" in lines[-5]
    assert "is a folder" in invoke("domain", texts, "no-model", "none", "--out", tmp_path).refused(2)
    assert "There is only one model" in invoke("domain", texts, model).refused(2)
