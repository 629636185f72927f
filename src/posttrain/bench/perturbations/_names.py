"""The given names that perturbations know, from `names.yaml`."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import yaml


class Name(NamedTuple):
    """Where a name stands in the list."""

    group: str
    gender: str
    place: int


@cache
def names_by_group() -> dict[str, dict[str, list[str]]]:
    """By group and gender the names, those of both genders paired by their places."""
    found: dict[str, dict[str, list[str]]] = yaml.safe_load(
        (Path(__file__).parent / "names.yaml").read_text(encoding="utf-8")
    )
    return found


@cache
def known_names() -> dict[str, Name]:
    """Of every name, as it is written, its place."""
    return {
        name: Name(group, gender, place)
        for group, genders in names_by_group().items()
        for gender, names in genders.items()
        for place, name in enumerate(names)
    }


@cache
def name_pattern() -> re.Pattern[str]:
    """Finds every known name that stands as a word of its own, with a capital in front or in capitals throughout."""
    names = sorted(known_names(), key=len, reverse=True)
    return re.compile(r"(?<!\w)(?:" + "|".join([*names, *map(str.upper, names)]) + r")(?!\w)")
