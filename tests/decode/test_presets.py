"""Presets: all of them hold, within their own ranges."""

from __future__ import annotations

from pathlib import Path

import pytest

from posttrain.core import catalog
from posttrain.core.errors import BadRequest
from posttrain.decode.presets import preset, presets


def test_all_hold() -> None:
    assert {"factual", "code", "summary", "chat", "creative", "brainstorming", "balanced"} <= set(presets())
    for found in presets().values():
        low, high = found.range
        search = catalog.build("search", found.search)
        assert low <= search.temperature <= (high or float("inf"))
        assert found.use.endswith(".")


def test_the_middle_of_the_range() -> None:
    """Rounded up to a tenth: 0.85 is 0.9, 1.25 is 1.3."""
    for found in presets().values():
        low, high = found.range
        middle = low if high is None else (low + high) / 2
        assert catalog.build("search", found.search).temperature == pytest.approx(middle, abs=0.0501)


def test_by_name() -> None:
    assert preset("low-risk").search == {"sampling": {"temperature": 0.3, "top_p": 0.5}}
    with pytest.raises(BadRequest, match=r"There is no preset 'creativ'\. Did you mean 'creative'"):
        preset("creativ")


def test_from_a_file(tmp_path: Path) -> None:
    place = tmp_path / "mine.yaml"
    place.write_text("use: Mine.\nsearch: {greedy: {}}\nprocess: [{min_p: {p: 0.1}}]\n")
    assert (preset(str(place)).search, preset(str(place)).process) == ({"greedy": {}}, [{"min_p": {"p": 0.1}}])
    assert preset(str(place)).range is None
    place.write_text("use: Mine.\n")
    with pytest.raises(BadRequest, match="search' is missing"):
        preset(str(place))


@pytest.mark.parametrize("search", ["{}", "{greedy: {}, beam: {}}"])
def test_a_preset_has_one_search(tmp_path: Path, search: str) -> None:
    place = tmp_path / "mine.yaml"
    place.write_text(f"use: Mine.\nsearch: {search}\n")
    with pytest.raises(BadRequest, match="search' doesn't fit"):
        preset(str(place))
