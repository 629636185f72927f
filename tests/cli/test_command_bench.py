"""`posttrain bench`, and the tasks in `posttrain list`."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def data(tmp_path):
    """Three items each of a task with choices and of two members."""
    folder = tmp_path / "data"
    (folder / "lambada").mkdir(parents=True)
    (folder / "mmlu" / "test").mkdir(parents=True)
    texts = [json.dumps({"text": f"The dog number {i} sleeps"}) + "\n" for i in range(3)]
    (folder / "lambada" / "lambada_test.jsonl").write_text("".join(texts))
    for subject in ("anatomy", "astronomy"):
        rows = "".join(f"{subject} {i}?,one,two,three,four,{'ABC'[i]}\n" for i in range(3))
        (folder / "mmlu" / "test" / f"{subject}_test.csv").write_text(rows)
    return folder


def test_json(invoke, model, data, tmp_path):
    words = ["bench", model, "mmlu_anatomy", "lambada_openai", "--data", data, "--limit", 2, "--json"]
    result = invoke(*words, "--out", tmp_path / "items.jsonl").json
    assert list(result) == ["mmlu_anatomy", "lambada_openai"]
    found = result["mmlu_anatomy"]
    assert {"score", "stderr", "n", "metric", "interval", "chance", "metrics", "signature", "seconds"} <= set(found)
    assert (found["n"], found["metric"], found["chance"]) == (2, "acc", 0.25)
    assert "shots:0" in found["signature"]
    assert result["lambada_openai"]["metrics"]["perplexity"]["value"] > 1
    lines = [json.loads(line) for line in (tmp_path / "items.jsonl").read_text().splitlines()]
    assert [line["task"] for line in lines] == ["mmlu_anatomy"] * 2 + ["lambada_openai"] * 2
    again = invoke(*words, "--set", "tokens_per_pass=7").json
    assert again["mmlu_anatomy"]["score"] == found["score"]


def test_human_form(invoke, model, data):
    ran = invoke("bench", model, "mmlu_anatomy", "--data", data, "--num-fewshot", 0)
    lines = ran.out.splitlines()
    assert lines[0].split() == ["task", "score", "stderr", "interval", "chance", "n", "metric"]
    assert lines[1].split()[0] == "mmlu_anatomy"
    assert lines[1].split()[-3:] == ["0.25", "3", "acc"]
    assert "Likelihoods: done" in ran.err


def test_beside_a_baseline(invoke, model, data, tmp_path):
    """The same model twice, from a file and asked anew; and a file in which it got an item more right."""
    words = ["bench", model, "mmlu_anatomy", "lambada_openai", "--data", data]
    items = tmp_path / "items.jsonl"
    assert invoke(*words, "--out", items, "--json").code == 0
    for baseline in (items, model):
        found = invoke(*words, "--baseline", baseline, "--json").json
        for each in found.values():
            assert (each["comparison"]["difference"], each["comparison"]["p_value"]) == (0, 1)
    lines = [json.loads(line) for line in items.read_text().splitlines()]
    lines[-1]["scores"]["perplexity"] += 1
    other = tmp_path / "other.jsonl"
    other.write_text("".join(json.dumps(line) + "\n" for line in lines))
    shown = invoke(*words, "--baseline", other).out.splitlines()
    place = shown.index("beside the baseline")
    assert shown[place + 1].split()[:5] == ["task", "value", "baseline", "difference", "interval"]
    assert shown[place + 1].split()[-2:] == ["p", "adjusted"]
    lines[1]["prompt"] += "?"
    other.write_text("".join(json.dumps(line) + "\n" for line in lines))
    refused = invoke(*words, "--baseline", other, "--json").refused(2)
    assert "mmlu_anatomy: item 2" in refused
    assert "they differ in 'prompt'" in refused
    assert "There is no file" in invoke("bench", "no-model", "handbook_quiz", "--baseline", "x.jsonl").refused(2)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["helaswag"], "There is no task 'helaswag'. Did you mean 'hellaswag'?"),
        (["hellaswag"], "looked for hellaswag/hellaswag_val.jsonl"),
        (["mmlu"], "55 of 57 members can't be read"),
        (["mmlu_anatomy", "--num-fewshot", "5"], "no data for dev"),
        (["lambada_openai", "--num-fewshot", "5"], "is asked without examples"),
        (["mmlu_anatomy", "--limit", "0"], "'bench.limit' doesn't fit"),
        (["mmlu_anatomy", "--set", "limti=3"], "Did you mean 'limit'?"),
    ],
)
def test_refusals(invoke, model, data, words, sentence):
    assert sentence in invoke("bench", model, *words, "--data", data, "--json").refused(2)


def test_wrong_tasks_are_refused_before_the_model_is_looked_for(invoke):
    assert "There is no task 'x'" in invoke("bench", "no-such-model", "x").refused(2)


def test_help_says_how_to_see_the_tasks(invoke, process):
    assert "posttrain list task" in process("bench", "--help").out
    for word in ("task", "tasks"):
        entries = invoke("list", word, "--json").json["methods"]
        assert {"hellaswag", "mmlu", "handbook_quiz"} <= {entry["term"] for entry in entries}
        assert all(entry["family"] == "task" and entry["summary"] for entry in entries)


def test_what_cannot_be_compared_or_written_is_refused_before_the_model_is_asked(invoke, model, tmp_path):
    """An hour's answers would be lost otherwise."""
    records = tmp_path / "items.jsonl"
    words = ["bench", model, "handbook_quiz", "--limit", 3, "--json"]
    assert invoke(*words, "--out", records).code == 0
    for more, sentence in [
        (["--out", tmp_path], "is a folder, and a file is to be written"),
        (["--out", records / "x.jsonl"], "items.jsonl is no folder"),
        (["--baseline", records, "--limit", 2], "handbook_quiz: there are 2 items, and the baseline answered 3"),
        (["--baseline", "no-such-model"], "no-such-model"),
    ]:
        ran = invoke(*words, *more)
        assert sentence in ran.refused(2) and "Likelihoods" not in ran.err
    lines = [json.loads(line) | {"task": "other"} for line in records.read_text().splitlines()]
    records.write_text("".join(json.dumps(line) + "\n" for line in lines))
    ran = invoke(*words, "--baseline", records)
    assert "The baseline has no answers to handbook_quiz" in ran.refused(2) and "Likelihoods" not in ran.err


def test_seed_reaches_the_intervals_of_differences(invoke, model, tmp_path):
    from posttrain.models.saving import save
    from tiny_models import make_tiny_llama

    save(make_tiny_llama(5), tmp_path / "other")
    words = ["bench", model, "handbook_quiz", "--baseline", tmp_path / "other", "--json"]
    found = [invoke(*words, *more).json["handbook_quiz"]["comparison"] for more in ([], ["--seed", 0], ["--seed", 1])]
    intervals = [[each["interval"], *(one["interval"] for one in each["metrics"].values())] for each in found]
    assert intervals[0] == intervals[1] != intervals[2]
