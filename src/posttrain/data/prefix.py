"""How far two sequences agree from their start: characters, tokens or messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def common_prefix(first: Sequence[Any], second: Sequence[Any]) -> int:
    """The number of leading elements that two sequences have in common."""
    shortest = min(len(first), len(second))
    return next((i for i in range(shortest) if first[i] != second[i]), shortest)
