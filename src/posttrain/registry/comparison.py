"""What two models differ in by their cards: ancestors, settings, data, seeds and versions.

Nothing is measured here; the `compare` step does that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

# What differs between any two runs and says nothing about the models.
_UNTOLD = frozenset({"key", "created", "title", "name", "energy", "folder", "source.local"})


@dataclass(frozen=True)
class Difference:
    """One thing in which two cards differ.

    Attributes:
        what: Path on the card, as in ``train.adapt.lora.rank``.
        first: Value on the first card; None where it has none.
        second: Value on the second.
    """

    what: str
    first: Any
    second: Any

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)


def common_ancestor(first: Mapping[str, Any], second: Mapping[str, Any]) -> str | None:
    """Name of the last model that both were made from, the root included; None if they share nothing.

    Args:
        first: A card.
        second: Another.
    """
    if (first.get("root") or {}).get("reference") != (second.get("root") or {}).get("reference"):
        return None
    shared: str | None = (first.get("root") or {}).get("reference")
    for one, other in zip(first.get("history") or [], second.get("history") or []):
        if not one.get("key") or one.get("key") != other.get("key"):
            break
        shared = one["name"]
    return shared


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Difference]:
    """In which settings, data, seeds and versions two models differ, in the order of their making.

    Args:
        first: A card.
        second: Another.
    """
    found = [
        Difference(name, one, other)
        for name in ("root", "license", "surgery", "versions")
        if (one := _plain(first.get(name))) != (other := _plain(second.get(name)))
    ]
    histories = [list(card.get("history") or []) for card in (first, second)]
    for position in range(max(map(len, histories))):
        one, other = (history[position] if position < len(history) else None for history in histories)
        if one is not None and other is not None and one.get("key") and one.get("key") == other.get("key"):
            continue
        flat = [dict(_flat(_told(entry))) if entry else {} for entry in (one, other)]
        for path in dict.fromkeys([*flat[0], *flat[1]]):
            if flat[0].get(path) != flat[1].get(path):
                found.append(Difference(path, flat[0].get(path), flat[1].get(path)))
    return found


def _told(entry: Mapping[str, Any]) -> dict[str, Any]:
    """A step's settings under its verb, and its data and seed."""
    ((verb, settings),) = entry["made_by"].items()
    return {verb: {**settings, "inputs": entry.get("inputs") or {}, "seed": entry.get("seed")}}


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            if key not in _UNTOLD:
                yield from _flat(inner, f"{path}.{key}".strip("."))
    else:
        yield path, _plain(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(inner) for inner in value]
    return value
