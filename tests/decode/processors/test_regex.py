"""Texts by a regular expression."""

from __future__ import annotations

import re
from typing import Any

import pytest

from posttrain.core.errors import BadRequest
from posttrain.decode.generation import generate
from posttrain.decode.search.sampling import Sampling

pytest.importorskip("llguidance")

from posttrain.decode.processors.regex import Regex


@pytest.mark.parametrize(
    "pattern", ["[0-9]{4}-[01][0-9]", "(yes|no|perhaps)[!?]*", r"\p{Lu}[a-z]+ [a-z]+", "(?s:.{3})"]
)
def test_everything_drawn_matches(lively: Any, pattern: str) -> None:
    found = generate(
        lively,
        [f"When {number}" for number in range(6)],
        search=Sampling(temperature=2),
        processors=[Regex(pattern=pattern)],
        max_new_tokens=24,
    )
    for generation in found.generations:
        assert generation.finish_reason == "eos"
        assert re.fullmatch(pattern.replace(r"\p{Lu}", "[^a-z]"), generation.text)


def test_refuses() -> None:
    with pytest.raises(BadRequest, match=r"Regex can't be compiled: .*unclosed group"):
        Regex(pattern="(a")
