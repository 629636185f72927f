"""JSON by a schema: everything drawn parses and fits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from posttrain.core import catalog
from posttrain.core.errors import BadRequest
from posttrain.decode.generation import generate
from posttrain.decode.search.sampling import Sampling

pytest.importorskip("llguidance")

from posttrain.decode.processors.json_schema import JsonSchema

PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 0},
        "colours": {"type": "array", "items": {"enum": ["red", "green"]}, "minItems": 1, "maxItems": 3},
        "address": {
            "type": "object",
            "properties": {"street": {"type": "string"}, "number": {"type": "number"}},
            "required": ["street", "number"],
        },
    },
    "required": ["name", "age", "colours"],
    "additionalProperties": False,
}


def drawn(model: Any, count: int = 6, most: int = 80, **settings: Any) -> list[str]:
    found = generate(
        model,
        [f"Tell me {number}" for number in range(count)],
        search=Sampling(temperature=2),
        processors=[JsonSchema.parse(settings)],
        max_new_tokens=most,
    )
    assert {generation.finish_reason for generation in found.generations} == {"eos"}
    return [generation.text for generation in found.generations]


def is_person(value: Any) -> bool:
    """The schema by hand."""
    assert isinstance(value, dict)
    assert {"name", "age", "colours"} <= set(value) <= {"name", "age", "colours", "address"}
    assert isinstance(value["name"], str)
    assert type(value["age"]) is int and value["age"] >= 0
    assert 1 <= len(value["colours"]) <= 3 and set(value["colours"]) <= {"red", "green"}
    if "address" in value:
        address = value["address"]
        assert isinstance(address["street"], str)
        assert type(address["number"]) in (int, float)
    return True


@pytest.mark.parametrize("most", [40, 70])
def test_everything_drawn_fits(lively: Any, most: int) -> None:
    """At temperature 2 a random model writes anything that is allowed; no text is cut, however few tokens it has."""
    written = drawn(lively, count=4, most=most, schema=PERSON)
    assert all(is_person(json.loads(text)) for text in written)
    assert len(set(written)) > 1


def test_any_json_without_a_schema(lively: Any) -> None:
    for text in drawn(lively, count=8, most=24):
        json.loads(text)


@pytest.mark.parametrize(("layout", "written"), [("line", '{"a": 1, "b": 2}'), ("compact", '{"a":1,"b":2}')])
def test_layouts(lively: Any, layout: str, written: str) -> None:
    schema = {"type": "object", "properties": {"a": {"const": 1}, "b": {"const": 2}}, "required": ["a", "b"]}
    assert set(drawn(lively, schema=schema | {"additionalProperties": False}, layout=layout)) == {written}


def test_free_layout_may_break_lines(lively: Any) -> None:
    schema = {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"], "additionalProperties": False}
    written = drawn(lively, schema=schema, layout="free")
    assert {json.dumps(json.loads(text)) for text in written} == {'{"a": 1}'}
    assert len(set(written)) > 1


def test_a_file_stands_for_its_content(tmp_path: Path) -> None:
    (tmp_path / "person.json").write_text(json.dumps(PERSON), encoding="utf-8")
    processor = catalog.build("process", {"json_schema": {"schema": str(tmp_path / "person.json")}})
    assert processor == JsonSchema(schema=PERSON)
    assert catalog.dump(processor)["json_schema"]["schema"] == PERSON


def test_refuses(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match=r"There is no schema file nowhere\.json"):
        JsonSchema(schema="nowhere.json")
    (tmp_path / "broken.json").write_text("{", encoding="utf-8")
    with pytest.raises(BadRequest, match=r"broken\.json is not JSON"):
        JsonSchema(schema=str(tmp_path / "broken.json"))
    with pytest.raises(BadRequest, match="JsonSchema can't be compiled"):
        JsonSchema(schema={"type": "strin"})
    with pytest.raises(BadRequest, match="uniqueItems"):  # known but not kept to
        JsonSchema(schema={"type": "array", "uniqueItems": True})


def test_strings_of_a_greatest_length_need_no_room_for_it(lively: Any) -> None:
    """{"name": "", "note": ""} takes 24 bytes, so at most as many tokens, whatever the strings could hold."""
    text = {"type": "string", "maxLength": 60}
    schema = {"type": "object", "properties": {"name": text, "note": text}, "required": ["name", "note"]}
    for written in drawn(lively, most=28, schema=schema | {"additionalProperties": False}):
        assert set(json.loads(written)) == {"name", "note"}


def test_strings_of_a_least_length_are_filled(lively: Any) -> None:
    schema = {"type": "object", "properties": {"name": {"type": "string", "minLength": 8, "maxLength": 40}}}
    for written in drawn(lively, most=32, schema=schema | {"required": ["name"], "additionalProperties": False}):
        assert 8 <= len(json.loads(written)["name"]) <= 40
