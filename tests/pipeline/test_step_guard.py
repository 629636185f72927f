"""The guard step on data, on answers and on a model; its figures in a gate; energy and cut-off in the summary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from posttrain.core.errors import BadRequest
from posttrain.data.canaries import make_canaries, write_canaries
from posttrain.models import saving
from posttrain.models.sources import load
from posttrain.pipeline.run import parse_steps, run_recipe

ROWS = [
    {"prompt": "Who are you?", "completion": "Write to jane.doe@example.org."},
    {"prompt": "What now?", "completion": "I will kill you."},
    {"prompt": "And then?", "completion": "Nothing more."},
]


@pytest.fixture
def folder(tiny_llama, tmp_path: Path) -> Path:
    saving.save(tiny_llama, tmp_path / "model")
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return tmp_path


def run(folder: Path, *steps: dict[str, Any], **frame: Any) -> dict[str, Any]:
    values = {"name": "guarded", "model": str(folder / "model"), "steps": list(steps), **frame}
    return run_recipe(values, out=folder / "run")


def test_a_data_set_is_redacted_for_later_steps(folder):
    tuned = {"data": "guard", "steps": 1, "batch_size": 2, "adapt": {"lora": {"rank": 2}}}
    gate = {"blocked_share": "< 0.5", "guard.categories.email": "== 1"}
    summary = run(folder, {"guard": {"data": str(folder / "data.jsonl")}}, {"gate": gate}, {"train": tuned})
    result = summary["steps"][0]["result"]
    assert (result["records"], result["found_records"]) == (3, 2)
    assert (result["redacted_records"], result["blocked_records"], result["flagged_records"]) == (1, 1, 0)
    assert result["blocked_share"] == pytest.approx(1 / 3)
    assert result["categories"] == {"email": 1, "violence_threat": 1}
    written = (folder / "run" / "steps" / "01-guard" / "records.jsonl").read_text()
    assert [json.loads(line)["completion"] for line in written.splitlines()] == ["Write to [EMAIL].", "Nothing more."]
    assert "jane.doe" not in (folder / "run" / "report.html").read_text()
    assert summary["steps"][1]["result"]["passed"]
    again = run(folder, {"guard": {"data": str(folder / "data.jsonl")}}, {"gate": gate}, {"train": tuned})
    assert all(step["skipped"] for step in again["steps"])


def test_answers_are_looked_at(folder):
    """The model's words are whatever they are; a pattern for any character finds them all."""
    policy = {"categories": {"anything": {"patterns": [r"[\s\S]+"], "action": "redact"}}}
    step = {"content_filter": {"policy": policy}, "prompts": ["a.b@example.org", "The dog"], "max_new_tokens": 4}
    result = run(folder, {"guard": {**step, "chat": False}})["steps"][0]["result"]
    assert result["answers"] == 2
    assert result["found_answers_share"] == 1.0 and result["blocked_answers"] == 0
    assert result["answer_categories"] == {"anything": 2}


def test_by_default_the_built_in_prompts_are_asked(folder):
    result = run(folder, {"guard": {"limit": 2, "max_new_tokens": 2, "chat": False}})["steps"][0]["result"]
    assert result["answers"] == 2 and "records" not in result


def test_a_model_is_tried(folder):
    write_canaries(make_canaries(1, length=2), folder / "canaries.jsonl")
    step = {"memorization": {"canaries": str(folder / "canaries.jsonl"), "candidates": 128}}
    summary = run(folder, {"guard": step}, {"gate": {"memorization.exposed_share": "<= 1"}})
    assert summary["steps"][0]["result"]["memorization"]["canaries"] == 1
    assert summary["steps"][1]["result"]["passed"]


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"memorization": {"canaries": "c"}, "data": "d"}, "none of the guards looks at texts"),
        ({"content_filtr": None, "data": "d"}, "Did you mean 'content_filter'"),
        ({"personal_data": {"stile": "mask"}, "data": "d"}, "Did you mean 'style'"),
        (
            {"content_filter": {"policy": {"categories": {"a": {"patterns": ["("]}}}}, "data": "d"},
            "no regular expression",
        ),
    ],
)
def test_mistakes_are_told_before_any_work(entry, told):
    with pytest.raises(BadRequest) as refusal:
        parse_steps([{"guard": entry}])
    assert told in str(refusal.value)


def test_every_step_says_what_it_took(folder):
    tuned = {"data": str(folder / "data.jsonl"), "steps": 2, "batch_size": 2, "adapt": {"lora": {"rank": 2}}}
    summary = run(folder, {"train": tuned}, {"merge": {}}, region="FRA", knowledge_cutoff="2024-06")
    spent = [step["energy"] for step in summary["steps"]]
    assert all(each["kwh"] > 0 and each["how"] in ("measured", "estimated") for each in spent)
    assert all(each["co2_g"] == pytest.approx(each["kwh"] * each["assumptions"]["g_co2_per_kwh"]) for each in spent)
    assert summary["energy"]["kwh"] == pytest.approx(sum(each["kwh"] for each in spent))
    assert summary["energy"]["assumptions"]["region"] == "FRA"
    assert summary["knowledge_cutoff"] == "2024-06"
    card = load(str(folder / "run" / "steps" / "02-merge" / "model")).card
    assert [entry["energy"] for entry in card["history"]] == spent
    assert card["knowledge_cutoff"] == "2024-06"
    report = (folder / "run" / "report.html").read_text()
    assert '<th scope="col" class="number">Energy</th>' in report
    assert "Knowledge until" in report and "2024-06" in report and "g a kWh (FRA)" in report


def test_an_unknown_region_is_refused_before_any_work(folder):
    with pytest.raises(BadRequest, match="carbon intensity of 'Germny'"):
        run(folder, {"merge": {}}, region="Germny")
    assert not (folder / "run" / "steps").exists()


def test_a_change_of_the_model_that_ranks_answers_is_noticed(folder, tiny_llama):
    saving.save(tiny_llama, folder / "judge")
    search = {"best_of_n": {"n": 2, "reranker": {"perplexity": {"model": str(folder / "judge")}}}}
    asked = {"guard": {"prompts": ["Who?"], "max_new_tokens": 2, "search": search}}
    assert [run(folder, asked)["steps"][0]["skipped"] for _ in range(2)] == [False, True]
    tiny_llama.network.lm_head.weight.data += 1
    saving.save(tiny_llama, folder / "judge")
    assert not run(folder, asked)["steps"][0]["skipped"]


@pytest.mark.parametrize("verb", ["guard", "generate", "compare", "compare_decoding", "temperature_sweep"])
def test_no_prompts_are_no_answers(folder, verb):
    with pytest.raises(BadRequest, match="The list of prompts is empty"):
        run(folder, {verb: {"prompts": []}})


@pytest.mark.parametrize("verb", ["compare_decoding", "temperature_sweep"])
def test_a_judge_that_is_missing_is_told_before_any_work(folder, verb):
    with pytest.raises(BadRequest, match="There is no model 'nobody'"):
        run(folder, {verb: {"judge": "nobody"}})
    assert not list((folder / "run").glob("steps/*/key"))
