"""Items of a task found in training data, by hand."""

from __future__ import annotations

import json

import pytest

from posttrain.bench import contamination, runner, task
from posttrain.bench.contamination import check
from posttrain.core.errors import BadRequest
from posttrain.ops.significance import share_interval

TASK = """\
summary: A test.
version: "1"
license: free
homepage: https://example.org
data: {test: [{files: ["items.jsonl"]}]}
split: test
type:
  multiple_choice:
    prompt: "Question: {{ question }}"
    choices: choices
    answer: answer
"""


def numbered(word, count):
    """So many different words."""
    return " ".join(f"{word}{i}" for i in range(count))


def item(question, *choices):
    return {"question": question, "choices": list(choices) or ["yes", "no"], "answer": 0}


ITEMS = [
    item(numbered("a", 20)),  # 13 words of it are in the data
    item(numbered("b", 20)),  # only 12
    item(numbered("c", 9)),  # all nine words
    item(numbered("d", 20), numbered("e", 10), "no"),  # the choice, but not the question
    item("Too short", "one", "two"),
    item(numbered("f", 20)),  # in two halves: 10 of 13 8-grams
    item("red green", "one two three four", "five six"),  # eight words in all columns
    item(numbered("g", 20)),  # nowhere
]
DATA = [
    {"text": f"so {numbered('a', 13).upper()}, so"},
    {"text": numbered("b", 12)},
    {"messages": [{"role": "user", "content": f"C0-{numbered('c', 9)[3:]}!"}]},
    {"text": numbered("e", 10)},
    {"text": " ".join(f"f{i}" for i in range(12)) + " so " + " ".join(f"f{i}" for i in range(8, 20))},
    {"question": "Red green", "choices": ["one two three four", "five six"]},
]


@pytest.fixture
def folder(tmp_path):
    """A task of eight items, and training data with some of them."""
    (tmp_path / "own.yaml").write_text(TASK)
    task.read.cache_clear()
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ITEMS))
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in DATA))
    return tmp_path


def checked(folder, **settings):
    plans = runner.prepare([str(folder / "own.yaml")], folder)
    return check(plans, settings.pop("files", [folder / "train.jsonl"]), **settings)


def lines(report):
    return [int(found.origin.rpartition(":")[2]) for found in report.found]


def test_passages(folder):
    found = checked(folder)
    report = found.tasks["own"]
    assert (report.items, report.judged, report.judged_joined) == (8, 7, 1)  # one by its columns together
    assert report.to_dict()["judged_joined"] == 1
    assert lines(report) == [1, 3, 7]
    first, third, seventh = report.found
    assert (first.words, first.column, first.where) == (13, "question", f"{folder / 'train.jsonl'}:1")
    assert first.passage == numbered("a", 13).upper()
    assert (third.words, third.share, third.passage) == (9, 1.0, "C0-c1 c2 c3 c4 c5 c6 c7 c8")
    assert (seventh.words, seventh.column) == (8, "all columns")
    told = report.to_dict()
    expected = share_interval(3, 7)
    assert (told["share"], told["interval"]) == (3 / 7, [expected.low, expected.high])
    # Words of the data: 15, 12, "user" and 9, 10, 25, and 8.
    assert (found.files, found.words, found.set_phrases) == (1, 80, 0)


def test_overlaps(folder):
    """8-grams: of item 1 6 of 13 are in the data, of item 6 5 + 5 of 13 = 77 %, of the fourth 3 of 16."""
    report = checked(folder, rule="overlap").tasks["own"]
    assert lines(report) == [3, 6, 7]
    assert report.found[1].share == pytest.approx(10 / 13)
    assert report.found[1].words == 12
    assert (report.by_passage, report.by_overlap) == (3, 3)


def test_text_files_name_the_line(folder):
    """A passage that is wrapped in the file, in a later piece of it."""
    words = numbered("g", 20).split()
    text = "\n".join(["some other text here"] * 60 + [" ".join(words[:7]), " ".join(words[7:15]), "the end"])
    (folder / "book.txt").write_text(text)
    (found,) = checked(folder, files=[folder / "book.txt"]).tasks["own"].found
    assert (found.words, found.where) == (15, f"{folder / 'book.txt'}:61")
    assert found.passage == f"{' '.join(words[:7])}\n{' '.join(words[7:15])}"


def test_many_files_and_small_batches(folder, monkeypatch):
    whole = checked(folder).tasks["own"]
    monkeypatch.setattr(contamination, "_BATCH", 10)
    for number, row in enumerate(DATA):
        (folder / f"part{number}.jsonl").write_text(json.dumps(row) + "\n")
    parts = checked(folder, files=sorted(folder.glob("part*.jsonl"))).tasks["own"]
    assert [(each.origin, each.words, each.share) for each in parts.found] == [
        (each.origin, each.words, each.share) for each in whole.found
    ]


def test_set_phrases_of_a_benchmark_do_not_count(folder):
    phrase = numbered("p", 14)
    rows = [item(f"{phrase} {numbered(f'x{i}y', 10)}") for i in range(11)]
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "train.jsonl").write_text(json.dumps({"text": phrase}) + "\n")
    found = checked(folder)
    assert found.set_phrases == 7
    assert found.tasks["own"].found == []
    # A passage that several items share as a whole is one text, and does count.
    rows = [{**item("Which one?"), "passage": f"{phrase} end"} for _ in range(30)]
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert len(checked(folder).tasks["own"].found) == 30


def test_scores_on_both_kinds(folder):
    """Items 1, 3 and 7 of 7 are contaminated; 2/3 of them right, of the others 1/4."""
    right = [1.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0]
    records = [
        {"task": "own", "origin": f"{folder / 'items.jsonl'}:{i + 1}", "scores": {"acc": each, "acc_norm": 0.0}}
        for i, each in enumerate(right)
    ]
    scores = checked(folder, records={"own": records}).tasks["own"].scores
    assert (scores.metric, scores.n_clean, scores.n_contaminated) == ("acc", 4, 3)
    assert (scores.contaminated, scores.clean) == (pytest.approx(2 / 3), 0.25)
    assert (scores.difference, scores.interval) == (pytest.approx(2 / 3 - 0.25), None)
    with pytest.raises(BadRequest, match=r"own: the records hold elsewhere:1, which is none of the task's items"):
        checked(folder, records={"own": [{**records[0], "origin": "elsewhere:1"}]})


def test_the_interval_of_a_difference(folder):
    """Of 60 items 30 are contaminated and all of them right, of the others half: 0.5 ± 1.96 √(0.25 / 30)."""
    rows = [item(numbered(f"q{i}w", 14)) for i in range(60)]
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:30]))
    records = [
        {"origin": f"{folder / 'items.jsonl'}:{i + 1}", "scores": {"acc": float(i < 30 or i % 2)}} for i in range(60)
    ]
    scores = checked(folder, records={"own": records}).tasks["own"].scores
    assert scores.difference == 0.5
    assert scores.interval == pytest.approx((0.5 - 0.179, 0.5 + 0.179), abs=0.03)


def test_nothing_can_be_judged(folder):
    (folder / "items.jsonl").write_text(json.dumps(item("Short", "a")) + "\n")
    report = checked(folder).tasks["own"]
    assert (report.judged, report.to_dict()["share"], report.to_dict()["interval"]) == (0, None, None)


def test_data_without_a_word_is_refused(folder):
    """No item stands in nothing: a share of 0 % would look like a clean bill."""
    (folder / "empty.txt").write_text(" \n")
    with pytest.raises(BadRequest, match=r"holds no words: .*empty.txt"):
        checked(folder, files=[folder / "empty.txt"])
    assert checked(folder, files=[folder / "empty.txt", folder / "train.jsonl"]).words


def test_the_signature_says_what_was_searched_for_what(folder):
    own = checked(folder).tasks["own"].signature
    assert own.startswith("contamination|task:own|version:1|data:") and "|rule:passage|tasks:own|train:" in own
    assert checked(folder, rule="overlap").tasks["own"].signature == own.replace("rule:passage", "rule:overlap")
    (folder / "more.txt").write_text("more words")
    assert checked(folder, files=[folder / "train.jsonl", folder / "more.txt"]).tasks["own"].signature != own
