"""Gates: conditions, figures, and a run that ends with a miss."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from posttrain.core.errors import BadRequest, Failure
from posttrain.core.recipe import apply_overrides
from posttrain.models import saving
from posttrain.pipeline.run import parse_steps, run_recipe
from posttrain.pipeline.steps import Context
from posttrain.pipeline.steps.gate import Condition, Gate

RESULTS: dict[str, dict[str, Any]] = {
    "before": {"perplexity": {"value": 20.0, "interval": [19, 21]}, "speed": 3},
    "tuned": {"forgetting": 0.05, "success": True, "nothing": None, "models": {"a.b": {"bytes": 7}}},
    "after": {"perplexity": {"value": 12.5}},
}


def context(results: dict[str, dict[str, Any]] = RESULTS) -> Context:
    return Context(
        load=lambda name: None,  # type: ignore[arg-type, return-value]
        folder=Path("nowhere"),
        seed=0,
        model_name="base",
        results=results,
        keys={},
        current=lambda: None,  # type: ignore[arg-type, return-value]
    )


@pytest.mark.parametrize(
    ("condition", "passing", "missing"),
    [
        ("< 0.1", [0.0, -5, 0.0999], [0.1, 2]),
        ("<=0.1", [0.1], [0.11]),
        (">  5", [5.1], [5, 4]),
        (">= 5", [5], [4.9]),
        ("== 3", [3, 3.0], [3.1]),
        ("== true", [True], [False]),
        ("== false", [False], [True]),
        ("< 10 %", [0.09], [0.1]),
        ("> -1e-3", [0], [-1e-3]),
        ("between 0.2 and 0.4", [0.2, 0.3, 0.4], [0.19, 0.41]),
        ("between 20% and 40%", [0.2, 0.4], [0.41]),
    ],
)
def test_conditions(condition, passing, missing):
    parsed = Condition.parse(condition)
    assert all(parsed.holds(float(value)) for value in passing)
    assert not any(parsed.holds(float(value)) for value in missing)
    assert not parsed.holds(float("nan"))


@pytest.mark.parametrize(
    "text",
    ["0.1", "< x", "<", "=< 3", "< true", "between 3 and 2", "between 1", "< 1; exit", "", None, 0.1, False, ["<"]],
)
def test_what_is_no_condition(text):
    with pytest.raises(ValueError, match=r"condition|no number|truth value"):
        Condition.parse(text)


@pytest.mark.parametrize(
    ("name", "step", "value"),
    [
        ("forgetting", "tuned", 0.05),
        ("perplexity", "after", 12.5),  # the newest step that has it
        ("before.perplexity", "before", 20.0),
        ("before.perplexity.value", "before", 20.0),
        ("perplexity.value", "after", 12.5),
        ("success", "tuned", True),
        ("tuned.models.a.b.bytes", "tuned", 7),
        ("models.a.b.bytes", "tuned", 7),
    ],
)
def test_figures_are_found_by_step_or_in_the_newest_one(name, step, value):
    result = Gate.parse({name: "> -1"}).run(context()).result
    assert result["conditions"][name] == {"passed": True, "value": value, "wanted": "> -1", "step": step}


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("forgeting", "No earlier step has the figure 'forgeting'. Did you mean 'forgetting'"),
        ("befor.perplexity", "Did you mean 'before.perplexity'"),
        ("tuned.speed", "No earlier step has the figure 'tuned.speed'"),
        ("models", "No earlier step has the figure 'models'"),
        ("interval", "No earlier step has"),
    ],
)
def test_unknown_figures_are_refused_with_a_suggestion(name, told):
    with pytest.raises(BadRequest) as refusal:
        Gate.parse({name: "> 0"}).inputs(context())
    assert told in str(refusal.value)


def test_a_gate_needs_a_step_before_it():
    with pytest.raises(BadRequest, match="no step stands before it"):
        Gate.parse({"speed": "> 0"}).inputs(context({}))


def test_the_outcome_names_what_was_missed():
    outcome = Gate.parse({"forgetting": "< 0.01", "success": "== true", "nothing": "> 0"}).run(context())
    assert outcome.failure == (
        "The gate is not passed: forgetting should be < 0.01 and is 0.05 (step tuned); "
        "nothing should be > 0 and is – (step tuned)."
    )
    assert outcome.result["passed"] is False
    assert [row[:4] for row in outcome.views[0]["rows"]] == [
        ["✗", "forgetting", "< 0.01", "0.05"],
        ["✓", "success", "== true", "yes"],
        ["✗", "nothing", "> 0", "–"],
    ]
    warned = Gate.parse({"forgetting": "< 0.01", "fail": False}).run(context())
    assert warned.failure is None and warned.result["passed"] is False
    assert warned.views[1]["tone"] == "warning"
    assert Gate.parse({"forgetting": "< 1"}).run(context()).views[1]["tone"] == "good"


def test_nested_names_are_dotted_ones():
    step = Gate.parse({"before": {"perplexity": "< 30", "speed": "> 1"}, "name": "quality"})
    assert step.conditions == {"before.perplexity": "< 30", "before.speed": "> 1"}
    assert step.name == "quality"
    assert Gate.parse({"conditions": {"fail": "< 1"}}).conditions == {"fail": "< 1"}
    assert Gate.parse(step.model_dump(mode="json", by_alias=True)) == step


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"speed": 3}, "'steps[0].gate.speed' doesn't fit: 3 is no condition."),
        ({"speed": "fast"}, "'fast' is no condition. Conditions are"),
        ({"fial": False, "speed": "> 1"}, "Did you mean 'fail'?"),
        ({"fail": True}, "'steps[0].gate.conditions' is missing"),
        ({"conditions": {}}, "no condition is given"),
        (None, "'steps[0].gate.conditions' is missing"),
    ],
)
def test_conditions_are_read_before_any_work(entry, told):
    with pytest.raises(BadRequest) as refusal:
        parse_steps([{"gate": entry}])
    assert told in str(refusal.value)


@pytest.fixture
def recipe(tiny_llama, tmp_path: Path) -> dict[str, Any]:
    saving.save(tiny_llama, tmp_path / "model")
    (tmp_path / "text.txt").write_text("The river rose in the night. " * 8)
    measured = {"perplexity": {"text": str(tmp_path / "text.txt"), "window": 64}}
    return {
        "name": "gated",
        "model": str(tmp_path / "model"),
        "steps": [
            {"measure": measured},
            {"gate": {"perplexity": "> 1e9"}},
            {"generate": {"prompts": ["x"], "max_new_tokens": 2}},
        ],
    }


def test_a_miss_ends_the_run_after_the_report(recipe, tmp_path):
    out = tmp_path / "run"
    for attempt in range(2):  # a cached miss is a miss
        with pytest.raises(Failure, match=r"perplexity should be > 1e9 and is .* \(step measure\)\. The report is"):
            run_recipe(recipe, out=out)
        summary = json.loads((out / "summary.json").read_text())
        assert [step["name"] for step in summary["steps"]] == ["measure", "gate"]
        assert summary["steps"][1]["skipped"] is bool(attempt)
        assert summary["finished"] is False
        assert summary["warnings"] == [summary["steps"][1]["failure"]]
        report = (out / "report.html").read_text()
        assert "✗" in report and "The gate is not passed" in report
    recipe["steps"][1] = {"gate": {"perplexity": "> 1"}}
    summary = run_recipe(recipe, out=out)
    assert summary["finished"] and [step["skipped"] for step in summary["steps"]] == [True, False, False]
    assert "✓" in (out / "report.html").read_text()


def test_a_miss_only_warns_if_it_may(recipe, tmp_path):
    recipe["steps"][1] = {"gate": {"perplexity": "> 1e9", "fail": False}}
    summary = run_recipe(recipe, out=tmp_path / "run")
    assert len(summary["steps"]) == 3 and summary["finished"]


@pytest.mark.parametrize("path", ["gate", "gate.conditions", "good", "good.conditions", "steps.0.gate.conditions"])
@pytest.mark.parametrize("inline", [True, False])
def test_an_override_reaches_a_condition_wherever_it_stands(path, inline):
    """Both forms mean the same, so either path changes either; dots in a figure's name are dots of the path."""
    written = {"speed": "> 1", "before.perplexity": "< 30"}
    body = {"name": "good", **(written if inline else {"conditions": written})}
    overrides = [f"{path}.speed=> 2", f"{path}.before.perplexity=< 9", f"{path}.forgetting=< 0.1"]
    values = apply_overrides({"model": "m", "steps": [{"gate": body}]}, overrides)
    (entry,) = parse_steps(values["steps"])
    assert entry.step.conditions == {"speed": "> 2", "before.perplexity": "< 9", "forgetting": "< 0.1"}


@pytest.mark.parametrize("conditions", ["< 3", ["< 3"]])
def test_conditions_that_are_no_mapping(conditions):
    with pytest.raises(BadRequest, match=r"conditions' doesn't fit"):
        parse_steps([{"gate": {"conditions": conditions}}])
