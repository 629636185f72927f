"""The arena: blind pairs of systems' answers, who wrote them, and votes on them; stores of the first version."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing

import pytest

from posttrain.align.agreement import cohen_kappa
from posttrain.align.arena import paired, read_answers
from posttrain.align.feedback import FeedbackStore
from posttrain.align.feedback_items import Item
from posttrain.core.errors import BadRequest
from posttrain.core.events import listen


@pytest.fixture
def store(tmp_path):
    with FeedbackStore(tmp_path / "store.db") as opened:
        yield opened


@pytest.fixture
def warnings():
    heard = []
    with listen(lambda event: heard.append(event.name) if event.fields.get("level") == "warning" else None):
        yield heard


def answers(system, prompts):
    return [(f"p{i}", f"{system} on {i}") for i in prompts]


def test_every_pair_of_systems_on_every_shared_prompt(warnings):
    found = paired({"a": answers("a", range(3)), "b": answers("b", range(3)), "c": answers("c", range(1, 4))})
    assert [(item.prompt, item.systems) for item in found.items] == [
        *(("p0", ("a", "b")), ("p1", ("a", "b")), ("p1", ("a", "c")), ("p1", ("b", "c"))),
        *(("p2", ("a", "b")), ("p2", ("a", "c")), ("p2", ("b", "c"))),
    ]
    assert (found.prompts, found.equal) == (3, 0)
    assert warnings == ["1 of 4 prompts left out: one system answered them."]
    assert all(item.answers == tuple(f"{s} on {item.prompt[1]}" for s in item.systems) for item in found.items)


def test_equal_answers_are_counted_and_first_answers_count(warnings):
    found = paired({"a": [("p", "yes"), ("q", "no"), ("p", "later")], "b": [("p", " yes\n"), ("q", "maybe")]})
    assert [item.prompt for item in found.items] == ["q"] and found.equal == 1
    assert warnings == ["a has 1 further answers to prompts it had answered; left out."]


def test_a_users_message_is_its_text():
    found = paired({"a": [("p", "x")], "b": [([{"role": "user", "content": "p"}], "y")]})
    assert len(found.items) == 1


def test_few_pairs_of_each_prompt_are_spread_evenly():
    """Four systems have 6 pairs; 2 of each of 9 prompts are 18 = 3 of each pair."""
    found = paired({name: answers(name, range(9)) for name in "abcd"}, per_prompt=2)
    counts = {}
    for item in found.items:
        counts[item.systems] = counts.get(item.systems, 0) + 1
    assert len(found.items) == 18 and set(counts.values()) == {3} and len(counts) == 6


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"a": answers("a", range(2))}, "1 system can't be compared"),
        (
            {"a": answers("a", range(2)), "b": answers("b", range(5, 7))},
            "No prompt was answered by two of the systems",
        ),
    ],
)
def test_refusals(given, sentence):
    with pytest.raises(BadRequest, match=sentence):
        paired(given)


def test_answers_from_files(tmp_path):
    plain, written = tmp_path / "plain.jsonl", tmp_path / "written.json"
    plain.write_text('{"instruction": "p", "output": "x"}\n')
    written.write_text(json.dumps({"generations": [{"prompt": "p", "text": "y", "token_ids": [1]}]}))
    assert read_answers(str(plain)) == [("p", "x")]
    assert read_answers(str(written)) == [("p", "y")]
    with pytest.raises(BadRequest, match="doesn't exist"):
        read_answers(str(tmp_path / "nowhere.jsonl"))


def judge(store, annotator, better):
    """Prefer the answers that begin with `better`."""
    for question in store.pending(annotator):
        store.judge(question, [1 + (not str(answer).startswith(better)) for answer in question.answers])


def test_votes_know_systems_and_the_order_shown(store):
    store.add_items(paired({"a": answers("a", range(20)), "b": answers("b", range(20))}).items)
    shown = {q.item: q.answers[0][0] for q in store.pending("anna")}
    judge(store, "anna", "a")
    votes = store.votes()
    assert len(votes) == 20 and store.systems() == ["a", "b"] and {vote.ordered for vote in votes} == {True}
    assert {vote.first for vote in votes} == {"a", "b"}  # both orders occur
    for vote in votes:
        assert vote.first == shown[vote.item] and {vote.first, vote.second} == {"a", "b"}
        assert vote.choice == ("first" if vote.first == "a" else "second")
    assert len({vote.prompt for vote in votes}) == 20
    question = store.pending("ben")[0]
    assert not any("systems" in name for name in vars(question))  # nothing that is shown says who wrote it


def test_an_answer_of_several_systems_is_a_vote_for_each(store):
    store.add_items([Item("p", ("x", "y"), "", ("a", "b")), Item("p", ("y", "x"), "", ("b", "c"))])
    assert store.counts()[0] == 1
    judge(store, "anna", "x")
    assert sorted((v.first, v.second) if v.choice == "first" else (v.second, v.first) for v in store.votes()) == [
        ("a", "b"),
        ("c", "b"),
    ]


def test_both_orders_and_records_are_noted(store):
    store.add_items([Item("p", ("x", "y"), "", ("a", "b"))])
    store.judge(store.question(1, "model:m"), [1, 1], ordered=False, record={"text": "[[C]]"})
    (vote,) = store.votes()
    assert (vote.choice, vote.ordered) == ("tie", False)
    assert store.records("model:m") == [{"text": "[[C]]"}] and store.records("anna") == []


def test_authors_and_notes_are_merged(store, tmp_path):
    with FeedbackStore(tmp_path / "other.db") as other:
        other.add_items([Item("p", ("x", "y"), "", ("a", "b"))])
        other.judge(other.question(1, "anna"), [1, 2], record={"why": "short"})
        before = store.hash()
        store.merge(other)
        assert store.votes() == other.votes() and store.records("anna") == [{"why": "short"}]
        assert before != store.hash() == other.hash()


def test_names_of_systems_are_needed_for_all_or_none():
    assert Item("p", ("x", "y"), "", ("a", "b")).canonical().hash == Item("p", ("y", "x")).canonical().hash
    for systems in (("a",), ("a", " ")):
        with pytest.raises(BadRequest, match="names of as many systems"):
            Item("p", ("x", "y"), "", systems).canonical()


def test_a_store_of_the_first_version_is_brought_up(tmp_path):
    """Its judgements stay; nobody knows the order they were made in, nor who wrote what."""
    path = tmp_path / "old.db"
    with FeedbackStore(path) as store:
        store.add_items([Item("p", ("x", "y"))])
        judge(store, "anna", "x")
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in (
            *("DROP TABLE authors", "ALTER TABLE judgements DROP COLUMN shown"),
            *("ALTER TABLE judgements DROP COLUMN record", "PRAGMA user_version = 1"),
        ):
            connection.execute(statement)
    with FeedbackStore(path, create=False) as store:
        assert [pair.chosen for pair in store.export().preferences] == ["x"]
        assert store.votes() == []
        store.add_items([Item("p", ("x", "y"), "", ("a", "b"))])
        assert [vote.ordered for vote in store.votes()] == [False]
    FeedbackStore(path).close()


def test_kappa_by_hand():
    """3 of 4 units agree; shares of 3/4, 1/4 and 1/2, 1/2 would in 3/8 + 1/8 = 1/2: κ = (3/4 − 1/2) / (1/2)."""
    from sklearn.metrics import cohen_kappa_score

    first, second = ["x", "x", "x", "y"], ["x", "x", "y", "y"]
    assert cohen_kappa(first, second) == pytest.approx(0.5) == cohen_kappa_score(first, second)
    assert cohen_kappa(["x"], ["x"]) is None and cohen_kappa([], []) is None
    with pytest.raises(ValueError, match="not of the same units"):
        cohen_kappa(["x"], [])
