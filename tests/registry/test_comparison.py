"""What two cards differ in."""

from __future__ import annotations

from typing import Any

from posttrain.registry.comparison import Difference, common_ancestor, differences


def entry(name: str, key: str, rank: int, seed: int = 0) -> dict[str, Any]:
    settings = {"name": name, "adapt": {"lora": {"rank": rank}}, "steps": 3}
    return {"name": name, "made_by": {"train": settings}, "inputs": {"data": {"hash": "h"}}, "seed": seed, "key": key}


def card(*history: dict[str, Any], root: str = "base") -> dict[str, Any]:
    return {"root": {"reference": root}, "history": list(history), "versions": {"torch": "2"}}


def test_only_what_differs_is_told() -> None:
    shared = entry("tuned", "a", 4)
    first, second = card(shared, entry("x", "b", 8)), card(shared, entry("y", "c", 16, seed=1))
    assert common_ancestor(first, second) == "tuned"
    assert differences(first, second) == [
        Difference("train.adapt.lora.rank", 8, 16),
        Difference("train.seed", 0, 1),
    ]
    assert differences(first, second)[0].to_dict() == {"what": "train.adapt.lora.rank", "first": 8, "second": 16}


def test_a_longer_history_and_another_root() -> None:
    first, second = card(entry("tuned", "a", 4)), card()
    assert common_ancestor(first, second) == "base"
    told = {difference.what: (difference.first, difference.second) for difference in differences(first, second)}
    assert told["train.steps"] == (3, None)
    other = card(root="other")
    assert common_ancestor(second, other) is None
    assert differences(second, other) == [Difference("root", {"reference": "base"}, {"reference": "other"})]


def test_a_model_differs_in_nothing_from_itself() -> None:
    assert differences(card(entry("t", "a", 4)), card(entry("t", "a", 4))) == []
    # Without keys the settings are compared; two equal ones tell nothing.
    assert differences(card(entry("t", "", 4)), card(entry("u", "", 4))) == []
