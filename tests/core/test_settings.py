"""Settings: strict, frozen, with the place and the meaning of a key in every complaint."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from pydantic import Field, ValidationError, field_validator

from posttrain.core.errors import BadRequest
from posttrain.core.settings import Settings, fingerprint, help_of


class Encoding(Settings):
    """An inner block."""

    max_length: int = Field(8, ge=2)
    """Most tokens
    of a record."""

    parts: list[int] = []
    """Lengths of the parts."""


class Train(Settings):
    """An outer block."""

    data: str
    """The training data."""

    rate: float = Field(0.1, gt=0)
    """Step size."""

    targets: str | list[str] = "all"
    """What is adapted."""

    source: str | None = Field(None, alias="from")
    """Where it comes from."""

    encoding: Encoding = Encoding()
    """How records become tokens."""

    several: list[Encoding] = []
    """More of them."""

    columns: dict[str, str] = {}
    """Names of columns."""

    model_size: int | None = None

    @field_validator("rate")
    @classmethod
    def _not_seven(cls, value: float) -> float:
        if value == 7:
            raise ValueError("seven is taken")
        return value


def complaint(values: Any, where: str = "steps[0].train") -> str:
    with pytest.raises(BadRequest) as caught:
        Train.parse(values, where)
    return str(caught.value)


def test_values_arrive():
    train = Train.parse({"data": "d", "from": "base", "encoding": {"max_length": 4}, "rate": "1e-3", "targets": ["q"]})
    assert (train.data, train.source, train.encoding.max_length, train.rate) == ("d", "base", 4, 1e-3)
    assert train.targets == ["q"] and train.columns == {}


def test_none_means_no_values():
    assert Encoding.parse(None) == Encoding()


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"data": "d", "rat": 1}, "Unknown key 'steps[0].train.rat'. Did you mean 'rate'?"),
        # The suggestion comes from the block that the key stands in, with the whole path before it.
        (
            {"data": "d", "encoding": {"max_lenght": 4}},
            "Unknown key 'steps[0].train.encoding.max_lenght'. Did you mean 'max_length'?",
        ),
        (
            {"data": "d", "several": [{}, {"prats": []}]},
            "Unknown key 'steps[0].train.several[1].prats'. Did you mean 'parts'?",
        ),
        # A key is suggested under the name a recipe uses, not the one Python does.
        ({"data": "d", "form": "base"}, "Unknown key 'steps[0].train.form'. Did you mean 'from'?"),
        # The misspelt key is the news, not that its right form is missing.
        ({"dta": "d"}, "Unknown key 'steps[0].train.dta'. Did you mean 'data'?"),
        ({}, "'steps[0].train.data' is missing. The training data."),
        (
            {"data": "d", "rate": -1},
            "'steps[0].train.rate' doesn't fit: Input should be greater than 0 (got -1). It means: Step size.",
        ),
        ({"data": "d", "rate": 7}, "'steps[0].train.rate' doesn't fit: seven is taken (got 7). It means: Step size."),
        (
            {"data": "d", "encoding": {"max_length": 1}},
            "'steps[0].train.encoding.max_length' doesn't fit: Input should be greater than or equal to 2 (got 1). "
            "It means: Most tokens of a record.",
        ),
        (
            {"data": "d", "encoding": {"parts": [1, "x"]}},
            "'steps[0].train.encoding.parts[1]' doesn't fit: Input should be a valid integer, unable to parse string "
            "as an integer (got 'x'). It means: Lengths of the parts.",
        ),
        # A field that takes a text or a list says both, and its path doesn't show pydantic's names for the two.
        (
            {"data": "d", "targets": 5},
            "'steps[0].train.targets' doesn't fit: Input should be a valid string, or: Input should be a valid list "
            "(got 5). It means: What is adapted.",
        ),
        (
            {"data": "d", "columns": {"text": 5}},
            "'steps[0].train.columns.text' doesn't fit: Input should be a valid string (got 5). "
            "It means: Names of columns.",
        ),
        # A field without help says no more than is known.
        (
            {"data": "d", "model_size": "big"},
            "'steps[0].train.model_size' doesn't fit: Input should be a valid integer, unable to parse string as an "
            "integer (got 'big').",
        ),
        (
            ["data"],
            "'steps[0].train' expects `key: value` settings, not ['data']. Known keys: data, rate, targets, from, "
            "encoding, several, columns, model_size.",
        ),
    ],
)
def test_complaints(values, sentence):
    assert complaint(values) == sentence


def test_complaints_without_a_place():
    assert complaint({"data": "d", "rat": 1}, "") == "Unknown key 'rat'. Did you mean 'rate'?"
    assert complaint("x", "").startswith("'Train' expects `key: value` settings, not 'x'.")


def test_a_long_value_is_shown_shortened():
    assert len(complaint({"data": "d", "rate": "x" * 10_000})) < 300


def test_settings_are_frozen():
    encoding = Encoding()
    with pytest.raises(ValidationError, match="frozen"):
        encoding.max_length = 3  # type: ignore[misc]


def test_defaults_are_validated():
    class Wrong(Settings):
        """A default that breaks its own rule."""

        size: int = Field(0, ge=1)

    with pytest.raises(BadRequest, match="'size' doesn't fit"):
        Wrong.parse({})


def test_help_is_the_docstring_under_the_field_on_one_line():
    assert help_of(Encoding) == {"max_length": "Most tokens of a record.", "parts": "Lengths of the parts."}
    assert help_of(Train)["source"] == "Where it comes from."
    assert help_of(Train)["model_size"] == ""


def test_fingerprint():
    """16 hex digits of SHA-256 over JSON with sorted keys and no spaces.

    The value is the head of ``printf '{"a":1,"b":[1,2]}' | sha256sum``.
    """
    assert fingerprint({"b": [1, 2], "a": 1}) == fingerprint({"a": 1, "b": [1, 2]}) == "8baa73198470c7bb"
    assert fingerprint([1, 2]) != fingerprint([2, 1])
    assert fingerprint({"a": 1}) != fingerprint({"a": "1"})
    assert fingerprint({"a": {"x": 1, "y": 2}}) == fingerprint({"a": {"y": 2, "x": 1}})


def test_fingerprint_is_the_same_in_every_process():
    value = {"text": "größer", "path": None, "numbers": [0.1, 1e-9]}
    code = f"from posttrain.core.settings import fingerprint; print(fingerprint({value!r}))"
    found = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert found == {fingerprint(value)}
