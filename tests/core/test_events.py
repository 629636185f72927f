"""The stream of progress: what is sent, to whom, in which order."""

from __future__ import annotations

import pytest

from posttrain.core import events


@pytest.fixture
def heard():
    """Events sent during the test."""
    found: list[events.Event] = []
    with events.listen(found.append):
        yield found


def test_a_task_announces_itself_its_progress_and_its_end(heard):
    with events.task("training", total=3, unit="steps", done=1) as task:
        task.advance(loss=2.5)
        task.advance(0.5)
    assert [(event.kind, event.name) for event in heard] == [
        ("start", "training"),
        ("advance", "training"),
        ("advance", "training"),
        ("end", "training"),
    ]
    start, first, second, end = (event.fields for event in heard)
    assert start == {"total": 3, "unit": "steps", "done": 1}
    assert first == {"done": 2, "total": 3, "unit": "steps", "values": {"loss": 2.5}}
    assert second == {"done": 2.5, "total": 3, "unit": "steps", "values": {}}
    assert end["ok"] is True and end["seconds"] >= 0


def test_the_end_is_announced_when_the_work_fails(heard):
    with pytest.raises(ZeroDivisionError), events.task("division"):
        1 / 0  # noqa: B018
    assert heard[-1].kind == "end" and heard[-1].fields["ok"] is False


def test_iterating_counts_what_is_finished(heard):
    with events.task("rows", total=2) as task:
        seen = []
        for item in task.over("ab"):
            seen.append((item, task.done))  # the item at hand isn't done yet
    assert seen == [("a", 0), ("b", 1)]
    assert task.done == 2
    assert [event.fields["done"] for event in heard if event.kind == "advance"] == [1, 2]


def test_messages(heard):
    events.message("slow")
    events.message("odd", level="warning")
    assert [(event.name, event.fields["level"]) for event in heard] == [("slow", "info"), ("odd", "warning")]


def test_listeners_hear_in_order_and_only_inside_their_block():
    order = []
    with events.listen(lambda event: order.append(("outer", event.name))):
        with events.listen(lambda event: order.append(("inner", event.name))):
            events.message("one")
        events.message("two")
    events.message("three")
    assert order == [("outer", "one"), ("inner", "one"), ("outer", "two")]


def test_a_listener_is_removed_when_its_block_fails():
    order = []
    with pytest.raises(KeyError), events.listen(order.append):
        raise KeyError
    events.message("unheard")
    assert order == []


def test_a_listener_may_subscribe_and_leave_while_an_event_is_sent():
    late = []

    def first(event: events.Event) -> None:
        with events.listen(late.append):
            pass

    last = []
    with events.listen(first), events.listen(last.append):
        events.message("hello")
    assert late == [] and [event.name for event in last] == ["hello"]
