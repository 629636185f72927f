"""Asking a person: what is shown, what is understood."""

from __future__ import annotations

import io
import sys

import pytest
from rich.console import Console

from posttrain.align.feedback import FeedbackStore
from posttrain.align.feedback_items import Item
from posttrain.cli.judging import Judging, parse_ranks, read_line


@pytest.mark.parametrize(
    ("word", "answers", "ranks"),
    [
        ("a", 2, [1, 2]),
        ("b", 2, [2, 1]),
        ("=", 2, [1, 1]),
        ("a=b", 2, [1, 1]),
        ("b > a", 2, [2, 1]),
        ("=", 3, [1, 1, 1]),
        ("b a c", 3, [2, 1, 3]),
        ("bac", 3, [2, 1, 3]),
        ("c, a=b", 3, [2, 2, 1]),
        ("a=c>b=d", 4, [1, 2, 1, 2]),
    ],
)
def test_what_is_understood(word, answers, ranks):
    assert parse_ranks(word, answers) == ranks


@pytest.mark.parametrize(
    ("word", "answers"),
    [("", 2), ("c", 2), ("aa", 2), ("ab=", 2), ("=ab", 2), ("a==b", 2), ("1", 2), ("a", 3), ("ab", 3), ("abd", 3)],
)
def test_what_isnt(word, answers):
    assert parse_ranks(word, answers) is None


def ask(store, keys, width=120, criterion="overall"):
    """Judge with these keys; what was shown and how many were judged."""
    console = Console(file=io.StringIO(), width=width, color_system=None, highlight=False)
    typed = iter(keys)
    judging = Judging(store, store.pending("anna", criterion), lambda _: next(typed, None), console)
    judging.run()
    return console.file.getvalue(), judging.judged


@pytest.fixture
def store(tmp_path):
    with FeedbackStore(tmp_path / "store.db") as opened:
        yield opened


def test_a_question_side_by_side_or_stacked(store):
    store.add_items([Item("Why?", ("Because.", "No idea."))])
    wide, _ = ask(store, [], width=120)
    assert any("Because." in line and "No idea." in line for line in wide.splitlines())
    assert "Why?" in wide and "1 of 1" in wide and "Which answer is better?" in wide
    narrow, _ = ask(store, [], width=60)
    assert not any("Because." in line and "No idea." in line for line in narrow.splitlines())
    assert max(map(len, narrow.splitlines()[:-2])) <= 60
    assert "more helpful?" in ask(store, [], criterion="helpful")[0]
    assert "Criterion: brevity" in ask(store, [], criterion="brevity")[0]


def test_a_ranking(store):
    store.add_items([Item("Why?", ("x", "y", "z"))])
    (question,) = store.pending("anna")
    shown, judged = ask(store, ["a\n", "c a=b\n"])
    assert judged == 1
    assert "'a' isn't understood. Allowed: a ranking such as b a=c," in shown
    assert "C > A=B" in shown
    found = store.export()
    assert {(pair.chosen, pair.rejected) for pair in found.preferences} == {
        (question.answers[2], question.answers[0]),
        (question.answers[2], question.answers[1]),
    }
    assert found.ties == 1


def test_time_left_is_told_once_it_is_known(store, monkeypatch):
    """Each look at the clock is 20 seconds later, so each of the 4 judgements takes 20 seconds."""
    clock = iter(range(0, 10_000, 20))
    monkeypatch.setattr("posttrain.cli.judging.time.monotonic", lambda: next(clock))
    store.add_items([Item(f"p{i}", ("x", "y")) for i in range(5)])
    shown, _ = ask(store, "abab")
    assert [line for line in shown.splitlines() if " of 5" in line] == [
        "1 of 5",
        "2 of 5 · 1 min left",
        "3 of 5 · 1 min left",
        "4 of 5 · 40 s left",
        "5 of 5 · 20 s left",
    ]


def test_undo_passes_over_what_was_skipped(store):
    """Judge the first, skip the second, undo on the third: back at the first, and the second is asked again."""
    store.add_items([Item(f"p{i}", ("x", "y")) for i in range(3)])
    shown, judged = ask(store, "usaubab")
    assert "There is nothing to undo in this session." in shown
    places = [line.split(" of")[0] for line in shown.splitlines() if " of 3" in line]
    assert places == ["1", "2", "3", "2", "3"]
    assert judged == 2
    assert len(store.pending("anna")) == 1


def test_control_characters_of_a_model_dont_reach_the_terminal(store):
    store.add_items([Item("p\x9b2J", ("\x1b[31mred\x07\r\nnext", " \n"))])
    shown, _ = ask(store, ["\x1b[A"])
    assert not {"\x1b", "\x07", "\x9b"} & set(shown)
    assert "␛[31mred␇" in shown and "next" in shown
    assert "(empty)" in shown


def test_lines_end_with_the_input(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("a\n\nb"))
    assert [read_line(None) for _ in range(4)] == ["a\n", "\n", "b", None]
