"""`posttrain arena`: pairs from files and from models, ratings of what people said, wrong requests."""

from __future__ import annotations

import json

import pytest

from posttrain.align.feedback import FeedbackStore


@pytest.fixture
def files(tmp_path):
    """Answers of three systems to thirty prompts; the file's name says how good they are."""
    found = {}
    for system in ("good", "fair", "bad"):
        found[system] = tmp_path / f"{system}.jsonl"
        rows = [{"prompt": f"Prompt {i}?", "response": f"{system} {i}"} for i in range(30)]
        found[system].write_text("".join(json.dumps(row) + "\n" for row in rows))
    return found


def added(invoke, store, files, *more):
    words = [word for name, path in files.items() for word in ("--answers", f"{name}={path}")]
    return invoke("arena", "add", store, *words, *more, "--json").json


def test_from_answers_to_ratings(invoke, files, tmp_path):
    store = tmp_path / "arena.db"
    first = added(invoke, store, files)
    assert (first["new"], first["prompts"], first["systems"], first["equal_answers"]) == (
        *(90, 30, ["bad", "fair", "good"], 0),
    )
    assert added(invoke, store, files)["new"] == 0
    order = {"good": 0, "fair": 1, "bad": 2}
    with FeedbackStore(store) as opened:
        for name in ("anna", "ben"):
            for question in opened.pending(name):
                ranks = [order[str(answer).split()[0]] for answer in question.answers]
                flipped = name == "ben" and question.item % 5 == 0
                opened.judge(question, [-rank for rank in ranks] if flipped else ranks)
    found = invoke("arena", "results", store, "--anchor", "fair", "--resamples", 200, "--json").json
    assert [row["system"] for row in found["systems"]] == ["good", "fair", "bad"]
    assert found["systems"][1]["rating"] == 1000 and found["prior"] == 0
    low, high = found["systems"][0]["interval"]
    assert 1000 < low < found["systems"][0]["rating"] < high
    assert found["systems"][0]["online_elo"] > 1000 > found["systems"][2]["online_elo"]
    assert 0 < found["agreement"] < 1 and found["votes"] == 180
    assert len(found["pairs"]) == 3 and all(0 <= row["adjusted"] <= 1 for row in found["pairs"])
    only = invoke("arena", "results", store, "--annotator", "ben", "--json").json
    assert only["votes"] == 90
    shown = invoke("arena", "results", store, "--resamples", 50).out
    assert shown.startswith("ratings\n") and "against each other" in shown and "anna, ben" in shown


def test_models_answer(invoke, model, files, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("The dog\nThe fox\nA language model\n")
    found = invoke(
        *("arena", "add", tmp_path / "s.db", "--model", f"sampled={model}", "--model", f"again={model}"),
        *("--prompts", prompts, "--limit", 2, "--max-new-tokens", 4, "--temperature", 3, "--seed", 1, "--json"),
    )
    assert "the same answer to every prompt" in found.refused(2)  # the same seed draws the same
    written = tmp_path / "written.jsonl"
    written.write_text('{"prompt": "The dog", "completion": "barks"}\n{"prompt": "The fox", "completion": "runs"}\n')
    words = ["--model", f"tiny={model}", "--answers", f"people={written}", "--prompts", prompts, "--max-new-tokens", 3]
    assert invoke("arena", "add", tmp_path / "s.db", *words, "--json").json["systems"] == ["people", "tiny"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "needs a word that says what to do"),
        (["add", "s.db", "--answers", "a=x.jsonl"], "two systems at least"),
        (["add", "s.db", "--answers", "x.jsonl", "--answers", "b=y"], "--answers NAME=x.jsonl"),
        (["add", "s.db", "--answers", "a=x", "--answers", "a=y"], "Two systems are called 'a'"),
        (["add", "s.db", "--answers", "a=x.jsonl", "--answers", "b=y.jsonl"], "x.jsonl doesn't exist"),
        (["add", "s.db", "--answers", "a=x", "--answers", "b=y", "--limit", "3"], "--limit needs --model"),
        (["add", "s.db", "--answers", "a=x", "--answers", "b=y", "--chat"], "--chat needs --model"),
        (["add", "s.db", "--model", "m", "--model", "n"], "--model needs --prompts"),
        (["add", "s.db", "--model", "nosuch", "--model", "n", "--prompts", "builtin:prompts"], "There is no model"),
        (["add", "s.db", "--answers", "a=x", "--answers", "b=y", "--per-prompt", "0"], "--per-prompt can't be 0"),
        (["results", "s.db"], "There is no feedback store"),
        (["results", "s.db", "--k", "0"], "k a number above 0"),
        (["results", "s.db", "--k", "inf"], "k a number above 0"),
        (["results", "s.db", "--seed", "-1"], "A seed is a whole number from 0 on, not -1"),
    ],
)
def test_refusals(invoke, tmp_path, monkeypatch, words, sentence):
    monkeypatch.chdir(tmp_path)
    assert sentence in invoke("arena", *words).refused(2)
    assert not (tmp_path / "s.db").exists()


def test_an_empty_store(invoke, tmp_path):
    FeedbackStore(tmp_path / "s.db").close()
    assert "Nobody has judged" in invoke("arena", "results", tmp_path / "s.db").refused(2)
