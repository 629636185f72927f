"""What comes as YAML: listed by its file, explained as its users read it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from posttrain.bench import suite, task
from posttrain.cli.shipped import KINDS, explained, show, summaries
from posttrain.core.errors import BadRequest
from posttrain.decode.presets import presets
from posttrain.pipeline.run import shipped_recipes


def test_all_are_listed():
    listed = {kind: list(summaries(kind)) for kind in KINDS}
    names = {"recipe": shipped_recipes(), "task": task.names(), "suite": suite.names(), "preset": [*presets()]}
    assert listed == names and all(summaries(kind)[name] for kind in KINDS for name in names[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_everything_listed_is_explained_and_shown(kind, capsys):
    for name, summary in summaries(kind).items():
        entry = explained(kind, name)
        assert (entry["family"], entry["term"], entry["summary"]) == (kind, name, summary)
        json.dumps(entry, allow_nan=False)
        show(entry)
        lines = capsys.readouterr().out.splitlines()
        assert lines[:2] == [f"{name}  {kind}", f"  {summary}"]


def test_a_task(capsys):
    """How it is asked, the metrics of items, of all of them and of groups, and where its files lie."""
    entry = explained("task", "multirc")
    assert (entry["type"], entry["split"], entry["score"]) == ("multiple_choice", "validation", "acc")
    assert entry["asked"]["choices"] == ["no", "yes"]
    assert entry["metrics"] == [
        {"metric": "acc", "of": "each item", "how": "see posttrain explain multiple_choice", "better": "higher"},
        {
            "metric": "f1",
            "of": "all items together",
            "how": 'classification {"score_by": "f1", "positive": "yes"}',
            "better": "higher",
        },
        {"metric": "em", "of": "groups of items", "how": "lowest of acc by question_id", "better": "higher"},
    ]
    validation = [place for place in entry["data"] if place["split"] == "validation"]
    assert validation[0] == {
        "split": "validation",
        "files": ["multirc/validation*.parquet"],
        "hub": "aps/super_glue:multirc",
    }
    assert validation[1]["files"] == ["MultiRC/val.jsonl"]
    assert entry["examples"] == {"number": 0, "from": ["train", "validation"]}
    show(entry)
    lines = capsys.readouterr().out.splitlines()
    assert "em      groups of items     lowest of acc by question_id                          higher" in lines
    assert "validation  MultiRC/val.jsonl" in lines
    assert any("--data" in line for line in lines)


def test_tasks_with_members_and_metrics_that_the_data_names():
    generative = explained("task", "bigbench_generative")
    assert generative["counts_in"] == "measured" and generative["further_members"]
    assert [row["metric"] for row in generative["metrics"]] == ["exact_match", "rouge1", "rouge2", "rougeLsum", "bleu"]
    assert explained("task", "mmlu_anatomy")["members"] == {"stem": ["anatomy"]}
    pairs = {row["metric"]: row for row in explained("task", "winobias")["metrics"]}
    assert pairs["pct_stereotype"]["how"] == "logprobs[0] > logprobs[1]"
    assert pairs["pct_stereotype"]["better"] == "lower"


def test_a_suite():
    """Each test with its kind, a case of it, and what is wanted of the answer."""
    entry = explained("suite", "sentiment")
    assert entry["labels"]["positive"] == ["pos", "1", "label_1", "good"]
    assert entry["lexicons"]["thing"] == 10
    tests = {each["test"]: each for each in entry["tests"]}
    assert len(tests) == len(suite.find("sentiment")[1].tests)
    assert (tests["words of praise"]["kind"], tests["words of praise"]["wanted"]) == ("MFT", "the answer positive")
    moved = tests["a stronger word doesn't weaken praise"]
    assert (moved["kind"], moved["wanted"], " → " in moved["for_example"]) == ("DIR", "positive goes up by -0.1", True)
    assert (tests["typos"]["kind"], tests["typos"]["wanted"]) == ("INV", "the same answer")
    asked = {each["for"] for each in explained("suite", "language_model")["tests"]}
    assert asked == {"models that choose", "models that write"}


def test_presets_and_recipes():
    assert explained("preset", "code")["search"] == {"sampling": {"temperature": 0.3}}
    assert explained("preset", "exploration")["usual_temperatures"] == [1.5, None]
    assert explained("recipe", "quickstart")["steps"][:2] == ["measure", "bench"]


def test_files_of_ones_own(tmp_path):
    (tmp_path / "own.yaml").write_text("use: Short.\nsearch: {greedy: {}}\nprocess: [{min_p: {min_p: 0.1}}]\n")
    found = explained("preset", str(tmp_path / "own.yaml"))
    assert found["usual_temperatures"] is None and found["process"] == [{"min_p": {"min_p": 0.1}}]
    (tmp_path / "task.yaml").write_text('extends: multirc\nsummary: "A  test."\n')
    assert explained("task", str(tmp_path / "task.yaml"))["summary"] == "A test."
    for kind in ("task", "suite", "preset", "recipe"):
        with pytest.raises(BadRequest):
            explained(kind, str(tmp_path / "none.yaml"))


def test_a_list_costs_nothing():
    code = "import sys; from posttrain.cli import main; code = main(['list', '--json']); "
    code += "sys.exit(code or ('torch' in sys.modules) * 3)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
