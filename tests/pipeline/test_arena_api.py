"""`posttrain.arena` and `posttrain.judge`: what the commands give, models and pairs in memory, and refusals."""

from __future__ import annotations

import json

import pytest

import posttrain
from json_results import without_times
from posttrain.align.arena import paired
from posttrain.align.feedback import FeedbackStore
from posttrain.core.errors import BadRequest
from posttrain.models.saving import save


@pytest.fixture
def folder(tiny_llama, tmp_path):
    tiny_llama.network.config.max_position_embeddings = 2048
    tiny_llama.tokenizer.model_max_length = 2048
    save(tiny_llama, tmp_path / "model")
    return tmp_path


def answers_of(folder):
    """Files of three systems' answers to 25 prompts."""
    files = {}
    for name in ("good", "fair", "bad"):
        rows = [{"prompt": f"Question {i}?", "completion": f"A {name} answer to {i}."} for i in range(25)]
        files[name] = folder / f"{name}.jsonl"
        files[name].write_text("".join(json.dumps(row) + "\n" for row in rows))
    return files


def test_an_arena(folder, command):
    """Files, pairs in memory, and votes: the same items, and the same ratings as the command's."""
    files = answers_of(folder)
    contest = posttrain.arena(folder / "arena.db")
    added = contest.add(files, per_prompt=2, seed=1)
    assert (added["systems"], added["prompts"], added["items"], added["new"]) == (["bad", "fair", "good"], 25, 50, 50)
    told = [word for name, file in files.items() for word in ("--answers", f"{name}={file}")]
    again = command("arena", "add", folder / "arena.db", *told, "--per-prompt", 2, "--seed", 1)
    assert again == {**added, "new": 0}
    pairs = {name: [json.loads(line) for line in file.read_text().splitlines()] for name, file in files.items()}
    given = {name: [(row["prompt"], row["completion"]) for row in rows] for name, rows in pairs.items()}
    assert contest.add(given, per_prompt=2, seed=1)["new"] == 0
    order = {"good": 0, "fair": 1, "bad": 2}
    with FeedbackStore(folder / "arena.db") as store:
        for number, question in enumerate(store.pending("anna")):
            ranks = [order[str(answer).split()[1]] for answer in question.answers]
            store.judge(question, [-rank for rank in ranks] if number % 6 == 0 else ranks)
    found = contest.results(anchor="fair", resamples=50, seed=4, annotators=["anna"])
    words = ("--anchor", "fair", "--resamples", 50, "--seed", 4, "--annotator", "anna")
    assert without_times(found) == command("arena", "results", folder / "arena.db", *words)
    assert [row["system"] for row in found["systems"]] == ["good", "fair", "bad"]
    assert found["systems"][1]["rating"] == 1000


def test_models_in_an_arena(folder, command):
    model = posttrain.load(folder / "model")
    people = [("The dog", "barks"), ("The fox", "runs")]
    prompts = ["The dog", "The fox", "A cat"]
    settings = {"limit": 2, "max_new_tokens": 3}
    added = posttrain.arena(folder / "one.db").add({"people": people}, {"tiny": model}, prompts, **settings)
    assert (added["systems"], added["items"], added["prompts"]) == (["people", "tiny"], 2, 2)
    (folder / "people.jsonl").write_text(
        "".join(json.dumps({"prompt": prompt, "completion": answer}) + "\n" for prompt, answer in people)
    )
    (folder / "prompts.txt").write_text("\n".join(prompts))
    words = ("--answers", f"people={folder / 'people.jsonl'}", "--model", f"tiny={folder / 'model'}")
    words += ("--prompts", folder / "prompts.txt", "--limit", 2, "--max-new-tokens", 3)
    assert command("arena", "add", folder / "two.db", *words) == {**added, "store": str(folder / "two.db")}
    with FeedbackStore(folder / "one.db") as one, FeedbackStore(folder / "two.db") as two:
        assert one.hash() == two.hash()


def test_a_judge(folder, command):
    """By reference and loaded, in the same order, and on where another call ended."""
    for name in ("one", "two"):
        with FeedbackStore(folder / f"{name}.db") as store:
            store.add_items(paired({s: [(f"p{i}", f"{s} says {i}") for i in range(5)] for s in "ab"}).items)
    model = posttrain.load(folder / "model")
    first = posttrain.judge(model, folder / "one.db", limit=2, margin=0.1, name="j")
    assert (first["judged"], first["pending"], first["annotator"]) == (2, 3, "model:j")
    found = posttrain.judge(folder / "model", folder / "one.db", criterion=" Overall ", margin=0.1, name="j")
    words = ("judge", folder / "model", folder / "two.db", "--margin", 0.1, "--name", "j")
    assert without_times(found) == {**command(*words), "store": str(folder / "one.db"), "judged": 3}
    graded = posttrain.judge(model, folder / "one.db", {"score": {"margin": 100}}, batch_size=4)
    assert graded["verdicts"] == graded["ties"] == 5 and "/score-" in graded["annotator"]


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda db: posttrain.arena(db).add({"a": [("p", "x")]}), "An arena needs two systems at least"),
        (lambda db: posttrain.arena(db).add({"a": [("p", "x")], "b": []}, {"a": "m"}, ["p"]), "are called 'a'"),
        (lambda db: posttrain.arena(db).add({"a": [], "b": []}, per_prompt=0), "per_prompt can't be 0"),
        (lambda db: posttrain.arena(db).add(models={"a": "m", "b": "n"}), "Models need prompts to answer"),
        (lambda db: posttrain.arena(db).add({"a": [], "b": []}, limit=3), "Without models nobody answers prompts"),
        (lambda db: posttrain.arena(db).add({"a": [("p", "x")]}, {"b": "nosuch"}, ["p"]), "There is no model 'nosuch'"),
        (lambda db: posttrain.arena(db).add({"a": [("p", "x")], "b": [("p", "x")]}), "same answer to every prompt"),
        (lambda db: posttrain.arena(db).add({"a": [("p", "x")]}, {"b": "m"}, ["p"], max_new_token=3), "max_new_tokens"),
        (lambda db: posttrain.arena(db).add({"a": [], "b": []}, seed=-1), "A seed is a whole number"),
        (lambda db: posttrain.arena(db).results(), "There is no feedback store"),
        (lambda db: posttrain.arena(db).results(k=float("inf")), "k a number above 0"),
        (lambda db: posttrain.judge("m", db), "There is no feedback store"),
        (lambda db: posttrain.judge("m", db, limit=0), "limit can't be 0"),
        (lambda db: posttrain.judge("m", db, criterion=" "), "The criterion has no name"),
        (lambda db: posttrain.judge("m", db, "likelyhood"), "Did you mean 'likelihood'"),
        (lambda db: posttrain.judge("m", db, swop="strict"), "Did you mean 'swap'"),
    ],
)
def test_refusals_leave_no_store(tmp_path, call, sentence):
    with pytest.raises(BadRequest, match=sentence):
        call(tmp_path / "s.db")
    assert not (tmp_path / "s.db").exists()
