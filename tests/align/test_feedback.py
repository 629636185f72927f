"""The feedback store: what it keeps through crashes, how annotators are kept blind, what follows from judgements."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from datetime import datetime, timedelta

import pytest

from posttrain.align.agreement import krippendorff_alpha
from posttrain.align.feedback import FeedbackStore, write_preferences
from posttrain.align.feedback_items import Item
from posttrain.core.errors import BadRequest
from posttrain.data import dataset
from posttrain.data.record import Preference


@pytest.fixture
def store(tmp_path):
    with FeedbackStore(tmp_path / "store.db") as opened:
        yield opened


def add_pairs(store, count):
    """Items ``p0`` … of the answers ``good0`` and ``bad0`` …"""
    return store.add_items([Item(f"p{i}", (f"good{i}", f"bad{i}"), f"f:{i + 1}") for i in range(count)])


def prefer(store, question, *order):
    """Judge by the beginnings of the answers, the best first; answers given together in a tuple are a tie."""
    groups = [group if isinstance(group, tuple) else (group,) for group in order]
    rank = {start: number for number, group in enumerate(groups) for start in group}
    ranks = [next(rank[start] for start in rank if str(answer).startswith(start)) for answer in question.answers]
    store.judge(question, ranks)


def of_prompt(store, prompt, annotator, criterion="overall"):
    (found,) = [q for q in store.pending(annotator, criterion) if q.prompt == prompt]
    return found


def rows(path, query):
    """What SQLite itself says about a file."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        return connection.execute(query).fetchall()


# Items and judgements.


def test_adding_again_changes_nothing(store):
    assert add_pairs(store, 3) == 3
    assert add_pairs(store, 4) == 1
    assert store.add_items([Item("p0", ("bad0", "good0"), "elsewhere")]) == 0
    assert store.counts() == (4, 0)


def test_a_bad_item_adds_none(store):
    with pytest.raises(BadRequest, match="f:2: two of the answers are equal"):
        store.add_items([Item("p", ("x", "y"), "f:1"), Item("q", ("x", "x"), "f:2")])
    assert store.counts() == (0, 0)


def test_prompts_and_answers_come_back_as_they_were(store):
    text = Item("»Ünïcode« 漢字 🙂\n\tand 'quotes'", ("", "  \n"))
    tools = {"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": {"x": 1}}]}
    talk = Item([{"role": "user", "content": "q"}], ([tools], [{"role": "assistant", "content": "no"}]))
    store.add_items([text, talk])
    found = {json.dumps(q.prompt): q.answers for q in store.pending("anna")}
    for item in (text, talk):
        assert sorted(map(json.dumps, found[json.dumps(item.prompt)])) == sorted(map(json.dumps, item.answers))


def test_a_judged_item_is_pending_no_more_for_this_annotator_and_criterion(store):
    add_pairs(store, 2)
    prefer(store, of_prompt(store, "p0", "anna"), "good", "bad")
    assert [q.prompt for q in store.pending("anna")] == ["p1"]
    assert len(store.pending("ben")) == 2
    assert len(store.pending("anna", "helpful")) == 2
    assert (store.unjudged(), store.unjudged("helpful")) == (1, 2)
    assert store.annotators() == ["anna"]


def test_a_judgement_is_withdrawn_and_replaced(store):
    add_pairs(store, 1)
    (question,) = store.pending("anna")
    assert not store.withdraw(question)
    prefer(store, question, "good", "bad")
    assert store.withdraw(question)
    assert store.counts() == (1, 0)
    assert store.pending("anna") == [question]
    prefer(store, question, "good", "bad")
    prefer(store, question, "bad", "good")
    assert store.counts() == (1, 1)
    assert [p.chosen for p in store.export().preferences] == ["bad0"]


def test_what_is_noted_of_a_judgement(store):
    add_pairs(store, 1)
    store.judge(store.pending("anna", "helpful")[0], [7, 3], seconds=2.5)
    ((annotator, criterion, ranks, seconds, moment),) = rows(
        store.path, "SELECT annotator, criterion, ranks, seconds, time FROM judgements"
    )
    assert (annotator, criterion, seconds) == ("anna", "helpful", 2.5)
    assert sorted(json.loads(ranks)) == [1, 2]
    assert datetime.fromisoformat(moment).utcoffset() == timedelta(0)


@pytest.mark.parametrize(
    ("annotator", "criterion", "ranks"), [("anna", "overall", [1]), ("", "overall", [1, 2]), ("anna", " ", [1, 2])]
)
def test_judgements_that_arent(store, annotator, criterion, ranks):
    add_pairs(store, 1)
    with pytest.raises(BadRequest):
        store.judge(store.question(1, annotator, criterion), ranks)
    assert store.counts() == (1, 0)


def test_no_such_item(store):
    with pytest.raises(BadRequest, match="has no item 1"):
        store.question(1, "anna")


# Blindness.


def test_sides_are_even_and_differ_between_annotators(store):
    """200 fair coins: the good answer is shown first 100 times, 4 standard deviations are 28."""
    add_pairs(store, 200)
    sides = {
        name: {q.item: q.answers[0].startswith("good") for q in store.pending(name)} for name in ("anna", "ben", "carl")
    }
    for found in sides.values():
        assert 72 < sum(found.values()) < 128
    same = sum(sides["anna"][item] == sides["ben"][item] for item in sides["anna"])
    assert 72 < same < 128


def test_a_leaning_to_one_side_cancels_out(store):
    """Who always takes the first answer shown prefers good and bad ones equally often."""
    add_pairs(store, 200)
    for question in store.pending("lazy"):
        store.judge(question, [1, 2])
    good = sum(pair.chosen.startswith("good") for pair in store.export().preferences)
    assert 72 < good < 128


def test_the_order_is_the_same_each_time_and_the_seeds(store):
    add_pairs(store, 30)
    first = store.pending("anna")
    assert store.pending("anna") == first
    assert [q.prompt for q in store.pending("ben")] == [q.prompt for q in first]  # so that early leavers overlap
    assert [q.prompt for q in first] != [f"p{i}" for i in range(30)]
    assert [q.prompt for q in store.pending("anna", seed=1)] != [q.prompt for q in first]
    assert store.question(first[4].item, "anna") == first[4]


def test_the_order_survives_other_judgements(store):
    add_pairs(store, 10)
    first = store.pending("anna")
    prefer(store, first[3], "good", "bad")
    assert store.pending("anna") == first[:3] + first[4:]


# Verdicts.


def votes(store, *verdicts):
    """One pair, judged by as many annotators: g prefers the good answer, b the bad one, = neither."""
    add_pairs(store, 1)
    orders = {"g": ("good", "bad"), "b": ("bad", "good"), "=": (("good", "bad"),)}
    for number, verdict in enumerate(verdicts):
        prefer(store, of_prompt(store, "p0", f"annotator {number}"), *orders[verdict])
    found = store.export()
    return "".join(pair.chosen[0] for pair in found.preferences), found.ties, found.disagreements


@pytest.mark.parametrize(
    ("verdicts", "outcome"),
    [
        ("g", ("g", 0, 0)),
        ("b", ("b", 0, 0)),
        ("=", ("", 1, 0)),
        ("gb", ("", 0, 1)),
        ("g=", ("", 0, 1)),  # one of two is no majority
        ("ggb", ("g", 0, 0)),
        ("bb=", ("b", 0, 0)),
        ("g==", ("", 1, 0)),
        ("gb=", ("", 0, 1)),
        ("ggb=", ("", 0, 1)),
        ("gggb=", ("g", 0, 0)),
    ],
)
def test_the_majority_decides(store, verdicts, outcome):
    assert votes(store, *verdicts) == outcome


def test_a_ranking_is_expanded_to_pairs(store):
    """x > y = z > w: 6 pairs, one of them a tie."""
    store.add_items([Item("p", ("w", "x", "y", "z"))])
    prefer(store, store.pending("anna")[0], "x", ("y", "z"), "w")
    found = store.export()
    pairs = {(pair.chosen, pair.rejected) for pair in found.preferences}
    assert pairs == {("x", "y"), ("x", "z"), ("x", "w"), ("y", "w"), ("z", "w")}
    assert len(found.preferences) == 5
    assert (found.ties, found.disagreements) == (1, 0)


def test_criteria_are_kept_apart(store):
    add_pairs(store, 1)
    prefer(store, of_prompt(store, "p0", "anna", "helpful"), "good", "bad")
    prefer(store, of_prompt(store, "p0", "anna", "harmless"), "bad", "good")
    assert [pair.chosen for pair in store.export("helpful").preferences] == ["good0"]
    assert [pair.chosen for pair in store.export("harmless").preferences] == ["bad0"]
    assert store.export().preferences == []


def test_what_is_exported_is_read_back(store, tmp_path):
    talk = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    items = [
        Item("Text: 漢字 \u2028 »x«", ("good\n", "bad\r\nline")),
        Item(talk, ([{"role": "assistant", "content": "good"}], [{"role": "assistant", "content": "bad"}])),
        Item("empty", ("good", "")),
    ]
    store.add_items(items)
    for question in store.pending("anna"):
        store.judge(question, [1 if "good" in str(answer) else 2 for answer in question.answers])
    found = store.export().preferences
    write_preferences(found, tmp_path / "pairs.jsonl")
    read = dataset.read(tmp_path / "pairs.jsonl")
    assert read.records == found == [Preference(item.prompt, *item.answers) for item in items]
    assert set(json.loads((tmp_path / "pairs.jsonl").read_text().split("\n")[0])) == {"prompt", "chosen", "rejected"}


def test_agreement_by_hand(store):
    """Three items; of the answers, the one stored first is called 1, the other 2.

    anna: 1 1 2, ben: 1 2 2. Coincidences as in units 11, 12, 22: alpha = 4/9 (see test_agreement).
    """
    add_pairs(store, 3)
    assert store.agreement() is None
    for name, choices in (("anna", (1, 1, 2)), ("ben", (1, 2, 2))):
        assert store.agreement() is None  # a single annotator agrees with nobody
        for item, choice in zip((1, 2, 3), choices):
            question = store.question(item, name)
            ranks = [1 if place == choice - 1 else 2 for place in question.order]
            store.judge(question, ranks)
    assert store.agreement() == pytest.approx(4 / 9)
    assert store.agreement("helpful") is None


def test_agreement_of_rankings_and_ties(store):
    """Both put x first; anna calls y and z equal, ben doesn't: two of three choices are the same."""
    store.add_items([Item("p", ("x", "y", "z"))])
    prefer(store, store.pending("anna")[0], "x", ("y", "z"))
    prefer(store, store.pending("ben")[0], "x", "y", "z")
    stored = Item("p", ("x", "y", "z")).canonical().answers
    x, y, z = (stored.index(letter) for letter in "xyz")
    # The choices in words, first or second of each pair in the stored order.
    xy, xz, yz = (("1" if first < second else "2") for first, second in ((x, y), (x, z), (y, z)))
    assert store.agreement() == pytest.approx(krippendorff_alpha([[xy, xy], [xz, xz], ["tie", yz]]))


# Bringing in what was judged elsewhere.


def test_preference_records_are_judged_items(store):
    records = [Preference(f"p{i}", f"good{i}", f"bad{i}", f"f:{i + 1}") for i in range(20)]
    assert store.import_preferences(records, "source") == 20
    assert store.import_preferences(records, "source") == 20
    assert store.counts() == (20, 20)
    assert store.export().preferences == records
    assert store.annotators() == ["source"]
    assert store.pending("source") == []


def test_records_of_one_pair_count_together(store):
    one, other = Preference("p", "x", "y"), Preference("p", "y", "x")
    store.import_preferences([one, other, Preference("q", "z", "z")], "even")
    assert store.export().ties == 1
    assert store.counts() == (1, 1)
    store.import_preferences([other, one, other], "odd", "helpful")
    assert store.export("helpful").preferences == [other]


def test_stores_are_merged(store, tmp_path):
    """The judgement made later counts, wherever it lies."""
    with FeedbackStore(tmp_path / "other.db") as other:
        other.add_items([Item("first in the other", ("x", "y"))])
        for each in (store, other):
            add_pairs(each, 2)
        prefer(other, of_prompt(other, "p0", "anna"), "bad", "good")
        prefer(other, of_prompt(other, "p1", "ben"), "bad", "good")
        store_question = of_prompt(store, "p0", "anna")
        time.sleep(0.01)  # times are noted in milliseconds
        prefer(store, store_question, "good", "bad")
        for _ in range(2):
            store.merge(other)
            assert store.counts() == (3, 2)
            assert {pair.chosen for pair in store.export().preferences} == {"good0", "bad1"}
        other.merge(store)
        assert other.hash() == store.hash()
        assert {pair.chosen for pair in other.export().preferences} == {"good0", "bad1"}


def test_the_hash_tells_contents_apart(store, tmp_path):
    seen = {store.hash()}
    add_pairs(store, 2)
    seen.add(store.hash())
    question = of_prompt(store, "p0", "anna")
    prefer(store, question, "good", "bad")
    seen.add(store.hash())
    judged = store.hash()
    prefer(store, question, "bad", "good")
    seen.add(store.hash())
    assert len(seen) == 4
    prefer(store, question, "good", "bad")
    assert store.hash() == judged


# The file.


def test_closing_and_opening_keeps_everything(tmp_path):
    path = tmp_path / "new" / "folder" / "store.db"
    with FeedbackStore(path) as first:
        add_pairs(first, 3)
        prefer(first, of_prompt(first, "p1", "anna"), "good", "bad")
        before = first.pending("anna")
    with FeedbackStore(path) as again:
        assert again.pending("anna") == before
        assert again.counts() == (3, 1)
    assert [p.name for p in path.parent.iterdir()] == ["store.db"]


_JUDGE_FOREVER = """
import sys
from posttrain.align.feedback import FeedbackStore
from posttrain.align.feedback_items import Item

store = FeedbackStore(sys.argv[1])
store.add_items([Item(f"p{i}", ("x", "y")) for i in range(3000)])
for question in store.pending("anna"):
    store.judge(question, [1, 2])
    print(question.item, " " * 200, flush=True)  # long lines: the pipe is full before the end, and the process waits
"""


def test_nothing_judged_is_lost_when_the_process_is_killed(tmp_path):
    path = tmp_path / "store.db"
    command = [sys.executable, "-c", _JUDGE_FOREVER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as judging:
        told = [judging.stdout.readline() for _ in range(40)]
        judging.send_signal(signal.SIGKILL)
        told += judging.stdout.readlines()
    assert judging.returncode == -signal.SIGKILL
    judged = {int(line) for line in told if line.endswith("\n")}
    assert 40 <= len(judged) < 3000
    with FeedbackStore(path) as store:
        items, judgements = store.counts()
        # At most one judgement was stored and not yet told.
        assert items == 3000 and len(judged) <= judgements <= len(judged) + 1
        assert not judged & {question.item for question in store.pending("anna")}
        for question in store.pending("anna")[:5]:
            store.judge(question, [2, 1])
        assert store.counts() == (3000, judgements + 5)
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]


def test_several_annotators_at_a_time(tmp_path):
    """Threads open the file themselves, also while it doesn't exist; nobody's judgement is lost."""
    path, start, errors = tmp_path / "store.db", threading.Barrier(4), []

    def work(name):
        try:
            start.wait()
            with FeedbackStore(path) as own:
                add_pairs(own, 10)
                for question in own.pending(name):
                    prefer(own, question, "good", "bad")
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(f"annotator {number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    with FeedbackStore(path, create=False) as found:
        assert found.counts() == (10, 40)
        assert len(found.export().preferences) == 10
