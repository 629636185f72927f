"""The space of ways of decoding and the tournament, by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from posttrain.core.errors import BadRequest
from posttrain.pipeline.decoding_space import Axis, axes, candidates, one_by_one, point, rounds, told

GRID: dict[str, Any] = {
    "search": {"sampling": {"temperature": [0.5, 1.0], "top_k": 40, "top_p": [0.8, 0.9, 1.0]}},
    "process": {"min_new_tokens": None},
}
ENDLESS: dict[str, Any] = {"search": {"sampling": {"temperature": {"low": 0.2, "high": 1.2}}}, "process": {}}


def test_lists_and_ranges_are_looked_for_and_other_settings_stay() -> None:
    assert axes(GRID) == [
        Axis(("search", "sampling", "temperature"), (0.5, 1.0)),
        Axis(("search", "sampling", "top_p"), (0.8, 0.9, 1.0)),
    ]
    assert axes(ENDLESS) == [Axis(("search", "sampling", "temperature"), (0.2, 1.2), between=True)]
    chosen = {("search", "sampling", "temperature"): 0.5, ("search", "sampling", "top_p"): 1.0}
    found = point(GRID, chosen)
    assert found["search"] == {"sampling": {"temperature": 0.5, "top_k": 40, "top_p": 1.0}}
    assert GRID["search"]["sampling"]["temperature"] == [0.5, 1.0]  # the region itself isn't changed


def test_a_small_space_is_tried_whole() -> None:
    """Two by three points and the one of a region without choices; more aren't drawn than there are."""
    space = {"grid": GRID, "single": {"search": {"greedy": None}, "process": {}}}
    every = candidates(space, None, seed=0)
    assert len(every) == 7
    settings = [way["search"]["sampling"] for way in every if "sampling" in way["search"]]
    assert {(each["temperature"], each["top_p"]) for each in settings} == {
        (t, p) for t in (0.5, 1.0) for p in (0.8, 0.9, 1.0)
    }
    key = str
    assert sorted(candidates(space, 100, seed=3), key=key) == sorted(every, key=key)


def test_regions_take_turns_and_points_differ() -> None:
    found = candidates({"grid": GRID, "endless": ENDLESS}, 6, seed=0)
    assert len({str(way) for way in found}) == 6
    assert sum("top_k" in way["search"]["sampling"] for way in found) == 3
    drawn = [way["search"]["sampling"]["temperature"] for way in found if "top_k" not in way["search"]["sampling"]]
    assert all(0.2 <= value <= 1.2 and value == float(f"{value:.3g}") for value in drawn)
    assert found == candidates({"grid": GRID, "endless": ENDLESS}, 6, seed=0)
    assert found != candidates({"grid": GRID, "endless": ENDLESS}, 6, seed=1)


def test_draws_cover_a_range_evenly() -> None:
    axis = axes(ENDLESS)[0]
    random = np.random.default_rng(0)
    drawn = [axis.drawn(random) for _ in range(2000)]
    assert np.mean(drawn) == pytest.approx(0.7, abs=0.02)
    assert np.std(drawn) == pytest.approx(1 / 12**0.5, abs=0.02)


@pytest.mark.parametrize(
    ("space", "count", "sentence"),
    [
        ({"endless": ENDLESS}, None, "'endless' has numbers between two others"),
        ({"bad": {"search": {"sampling": {"top_p": []}}}}, 4, r"'search\.sampling\.top_p' has no values"),
        ({"bad": {"search": {"sampling": {"top_p": {"low": 1, "high": 0.5}}}}}, 4, "low isn't below high"),
    ],
)
def test_what_cannot_be_drawn_is_refused(space: Any, count: int | None, sentence: str) -> None:
    with pytest.raises(BadRequest, match=sentence):
        candidates(space, count, seed=0)


def test_rounds_by_hand() -> None:
    """16 candidates, 32 prompts, one in two: 16 read 4, 8 read 8, 4 read 16, 2 read 32; 64 answers every time."""
    assert rounds(16, 32, 2) == [(16, 4), (8, 8), (4, 16), (2, 32)]
    assert rounds(9, 20, 3) == [(9, 7), (3, 20)]
    assert rounds(5, 3, 2) == [(5, 1), (3, 2), (2, 3)]
    assert rounds(1, 10, 2) == [(1, 10)]


def test_told_in_a_few_words() -> None:
    assert told({"search": {"sampling": {"temperature": 0.5}}, "process": {"min_p": None}}) == (
        "sampling temperature 0.5, min_p"
    )


def test_every_value_once() -> None:
    """The first point, then one more for each further value: 1 + 1 + 2."""
    found = [way["search"]["sampling"] for way in one_by_one(GRID)]
    assert [(each["temperature"], each["top_p"]) for each in found] == [(0.5, 0.8), (1.0, 0.8), (0.5, 0.9), (0.5, 1.0)]
    assert [way["search"]["sampling"]["temperature"] for way in one_by_one(ENDLESS)] == [0.2, 1.2]
