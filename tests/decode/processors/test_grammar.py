"""Texts by a grammar."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from posttrain.core import catalog
from posttrain.core.errors import BadRequest
from posttrain.decode.generation import generate
from posttrain.decode.search.sampling import Sampling

pytest.importorskip("llguidance")

from posttrain.decode.processors.grammar import Grammar

SUMS = """
start: term ("+" term)*
term: /[0-9]/ | "(" start ")"
"""


def value(text: str) -> int:
    """A sum of digits and sums in brackets, by recursive descent."""
    place = 0

    def term() -> int:
        nonlocal place
        if text[place] == "(":
            place += 1
            found = total()
            assert text[place] == ")"
        else:
            found = int(text[place])
        place += 1
        return found

    def total() -> int:
        nonlocal place
        found = term()
        while place < len(text) and text[place] == "+":
            place += 1
            found += term()
        return found

    found = total()
    assert place == len(text)
    return found


def test_everything_drawn_is_a_sentence(lively: Any) -> None:
    """Brackets nest to any depth, which no regular expression describes, and are all closed in time."""
    found = generate(
        lively,
        [f"How much {number}" for number in range(12)],
        search=Sampling(temperature=2),
        processors=[Grammar(lark=SUMS)],
        max_new_tokens=30,
    )
    sums = [generation.text for generation in found.generations]
    assert all(value(text) >= 0 for text in sums)
    assert any("(" in text for text in sums)


def test_a_file_stands_for_its_content(tmp_path: Path) -> None:
    (tmp_path / "sums.lark").write_text(SUMS, encoding="utf-8")
    processor = catalog.build("process", {"grammar": {"lark": str(tmp_path / "sums.lark")}})
    assert processor == Grammar(lark=SUMS)


def test_refuses() -> None:
    with pytest.raises(BadRequest, match=r"There is no grammar file nowhere\.lark"):
        Grammar(lark="nowhere.lark")
    with pytest.raises(BadRequest, match=r"Grammar can't be compiled: .*no_such_rule"):
        Grammar(lark="start: no_such_rule")
