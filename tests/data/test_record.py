from __future__ import annotations

import dataclasses

import pytest

from posttrain.data.record import Chat, Completion, Preference, Text, content, kind_of, kinds


def test_origin_takes_no_part_in_equality():
    assert Text("a", "x:1") == Text("a", "y:2")
    assert Text("a") != Text("b")
    assert Chat([{"role": "user", "content": "a"}]) != Chat([{"role": "user", "content": "b"}])


def test_records_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Text("a").text = "b"  # type: ignore[misc]


def test_every_kind_is_a_dataclass_with_an_origin():
    assert len(kinds()) == 8
    for name, cls in kinds().items():
        fields = {field.name: field for field in dataclasses.fields(cls)}
        assert not fields["origin"].compare, name


def test_content_is_the_record_without_its_origin():
    assert content(Completion("p", "é", origin="x:1")) == '["completion",{"completion":"é","label":null,"prompt":"p"}]'
    assert content(Text("a", "x:1")) == content(Text("a"))
    assert kind_of(Text("a")) == "text"


def test_preference_sides_keep_the_origin():
    chosen, rejected = Preference("p", "good", "bad", "x:3").sides()
    assert chosen == Completion("p", "good", True)
    assert rejected == Completion("p", "bad", False)
    assert chosen.origin == rejected.origin == "x:3"
