"""Settings in words."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from posttrain.cli.setting_types import settings_of
from posttrain.core.catalog import block, blocks, terms
from posttrain.core.settings import Settings


class Inner(Settings):
    deep: int = 1


class Example(Settings):
    rank: int = Field(8, ge=1, le=64)
    """Rank of
    the update."""

    rate: float | None = Field(None, gt=0)
    targets: str | list[str] = "attention"
    mode: Literal["fast", "exact"] = "exact"
    columns: dict[str, str] = {}
    source: str = Field(alias="from")
    inner: Inner = Inner()
    schedule: block("schedule") = Field(default_factory=lambda: {"cosine": {"warmup": 0.5}})  # type: ignore[valid-type]


class Methods(Settings):
    warmup: block("schedule") = None  # type: ignore[valid-type]
    processors: blocks("process") = Field(default_factory=list)  # type: ignore[valid-type]
    cooldown: block("schedule") | int = 0  # type: ignore[valid-type]
    schedule: Any = None


def test_types_bounds_defaults_and_help():
    found = {setting["name"]: setting for setting in settings_of(Example)}
    assert found["rank"] == {
        "name": "rank",
        "type": "whole number, ≥ 1, ≤ 64",
        "default": 8,
        "required": False,
        "help": "Rank of the update.",
    }
    types = {name: setting["type"] for name, setting in found.items()}
    assert types["rate"] == "number or none, > 0"
    assert types["targets"] == "text or list of text"
    assert types["mode"] == "fast | exact"
    assert types["columns"] == "mapping of text to text"


def test_methods_are_told_by_their_family_whatever_the_setting_is_called():
    types = {setting["name"]: setting["type"] for setting in settings_of(Methods)}
    known = ", ".join(terms("schedule"))
    assert "cosine" in known
    assert types == {
        "warmup": f"one of schedule: {known}",
        "processors": "list of process methods",
        "cooldown": f"one of schedule: {known} or whole number",
        "schedule": "any",  # only named like a family
    }


def test_a_required_setting_goes_by_the_name_a_recipe_uses():
    found = {setting["name"]: setting for setting in settings_of(Example)}
    assert found["from"]["required"]
    assert "source" not in found


def test_settings_inside_settings_are_shown_as_recipes_write_them():
    found = {setting["name"]: setting for setting in settings_of(Example)}
    assert found["inner"]["default"] == {"deep": 1}
    assert found["schedule"]["default"] == {"cosine": {"warmup": 0.5}}
