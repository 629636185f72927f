"""Cards beside models: what has another shape than posttrain writes is refused with the place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from posttrain.core import files
from posttrain.core.errors import BadRequest
from posttrain.models import cards
from posttrain.models.language_model import CARD_FILE

ENTRY: dict[str, Any] = {"name": "tuned", "made_by": {"train": {}}}


@pytest.mark.parametrize("card", [{}, {"root": None, "history": None}, {"history": [ENTRY], "of": "somebody else"}])
def test_cards_that_are_read(tmp_path: Path, card: dict[str, Any]) -> None:
    files.write_json(tmp_path / CARD_FILE, card)
    assert cards.read(tmp_path) == card


@pytest.mark.parametrize(
    ("card", "told"),
    [
        ([], "must hold a JSON object"),
        ({"root": "smollm2"}, "'root' is 'smollm2'"),
        ({"surgery": 3}, "'surgery' is 3"),
        ({"surgery": ["rtn"]}, r"surgery\[0\] is 'rtn'"),
        ({"history": [ENTRY, {"name": "a"}]}, r"history\[1\] doesn't say"),
        ({"history": [{**ENTRY, "made_by": {}}]}, r"history\[0\] doesn't say"),
        ({"history": [{**ENTRY, "inputs": ["data"]}]}, r"history\[0\].inputs is \['data'\]"),
    ],
)
def test_cards_that_are_not(tmp_path: Path, card: Any, told: str) -> None:
    files.write_json(tmp_path / CARD_FILE, card)
    with pytest.raises(BadRequest, match=told):
        cards.read(tmp_path)
