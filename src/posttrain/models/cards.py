"""Reading the card beside a saved model, ``posttrain.json``, with its shape checked.

A card is written by `posttrain.registry.provenance`, but lies where anyone may edit it. What others read of it has the
kinds of values that are written there; what a value says isn't checked, and keys that nobody knows stay.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from posttrain.core import files
from posttrain.core.errors import BadRequest
from posttrain.models.language_model import CARD_FILE

# Keys that may be missing or null -> what they are else.
_KINDS: dict[str, type] = {"root": dict, "versions": dict, "head": dict, "parents": list, "history": list}
_KINDS |= {"surgery": list}


def read(folder: Path) -> dict[str, Any]:
    """The card in a model's folder.

    Raises:
        BadRequest: If there is none, or it isn't as posttrain writes cards.
    """
    path = folder / CARD_FILE
    card = files.read_json(path)
    if not isinstance(card, dict):
        raise BadRequest(f"{path} must hold a JSON object.")
    if odd := _odd(card):
        raise BadRequest(f"{path} is no card as posttrain writes it: {odd}.", "Fetch or save the model again.")
    return card


def _odd(card: dict[str, Any]) -> str | None:
    """What is wrong with a card's shape; None if nothing is."""
    for key, kind in _KINDS.items():
        if card.get(key) is not None and not isinstance(card[key], kind):
            return f"'{key}' is {card[key]!r}"
    for place, entry in enumerate(card.get("history") or []):
        made_by = entry.get("made_by") if isinstance(entry, dict) else None
        if not isinstance(made_by, dict) or len(made_by) != 1 or "name" not in entry:
            return f"history[{place}] doesn't say what was made and by which step"
        if not isinstance(entry.get("inputs") or {}, dict):
            return f"history[{place}].inputs is {entry['inputs']!r}"
    for place, block in enumerate(card.get("surgery") or []):
        if not isinstance(block, dict) or len(block) != 1:
            return f"surgery[{place}] is {block!r}"
    return None
