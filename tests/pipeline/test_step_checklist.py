"""The step `checklist`: its result, what the report shows, and its caching."""

from __future__ import annotations

import json

import pytest
import yaml

from posttrain.bench import suite as suites
from posttrain.core.errors import BadRequest
from posttrain.models import saving
from posttrain.pipeline.run import run_recipe
from posttrain.pipeline.steps.checklist import CASES_FILE, Checklist

SUITE = {
    "summary": "s",
    "version": "1",
    "ask": {"choices": {"positive": "good", "negative": "bad"}},
    "lexicons": {"word": ["fine", "sad", "1"]},
    "tests": [
        {"name": "up", "capability": "words", "templates": ["{{ word }} film"], "expect": "positive"},
        {"name": "down", "capability": "words", "templates": ["{{ word }} film"], "expect": "negative"},
        {
            "name": "capitals",
            "capability": "robustness",
            "templates": ["{{ word }}"],
            "perturb": {"case": {"to": "upper"}},
        },
    ],
}


@pytest.fixture
def recipe(tiny_llama, tmp_path):
    saving.save(tiny_llama, tmp_path / "model")
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(SUITE))
    return {"model": str(tmp_path / "model"), "steps": [{"checklist": {"suite": str(tmp_path / "own.yaml")}}]}


def test_result_report_and_cache(recipe, tmp_path):
    summary = run_recipe(recipe, out=tmp_path / "run")
    (step,) = summary["steps"]
    found = step["result"]
    # Every text fails one of the first two tests; of the third, one has nothing to change.
    assert [test["n"] for test in found["tests"]] == [3, 3, 2]
    assert found["tests"][0]["failures"] + found["tests"][1]["failures"] == 3
    assert found["tests"][2]["unchanged"] == 1
    assert found["capabilities"]["words"]["failure_rate"] == 0.5
    assert step["headline"].endswith("of 8 cases fail")
    assert {view.get("title") for view in step["views"]} >= {"Capabilities in own", "Tests of own"}
    told = [view["text"] for view in step["views"] if view["kind"] == "note"]
    assert told[0] == "capitals: 1 texts had nothing to change and were left out."
    failing = json.loads((tmp_path / "run" / "steps" / "01-checklist" / CASES_FILE).read_text())
    assert len(failing["up"]) + len(failing["down"]) == 3
    assert "Failing: " in (tmp_path / "run" / "report.html").read_text()
    assert run_recipe(recipe, out=tmp_path / "run")["steps"][0]["skipped"]
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({**SUITE, "version": "2"}))
    suites.read.cache_clear()
    changed = run_recipe(recipe, out=tmp_path / "run")["steps"][0]
    assert not changed["skipped"]
    assert "|version:2|" in changed["result"]["signature"]


def test_short_form_and_settings():
    assert Checklist.parse("sentiment", "checklist").suite == "sentiment"
    with pytest.raises(BadRequest, match=r"'checklist\.samples' doesn't fit"):
        Checklist.parse({"suite": "sentiment", "samples": 0}, "checklist")
    with pytest.raises(BadRequest, match="There is no suite 'x'"):
        Checklist.parse("x", "checklist").read()
