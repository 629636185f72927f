"""A space of ways of decoding: what is tried of it, and a tournament that thins out what was tried.

A region of the space is a search and processors as a recipe writes them, in which a setting may be a list of values, or
{low: …, high: …} for all numbers between. Small spaces are tried whole; of others points are drawn at random, which
finds good ones with fewer trials than a coarse grid, because most settings matter little (Bergstra and Bengio, 2012,
"Random Search for Hyper-Parameter Optimization").

In the tournament all rounds cost alike: each keeps one in so many of the candidates and reads so many times the prompts
(successive halving; Karnin, Koren and Somekh, 2013, "Almost Optimal Exploration in Multi-Armed Bandits").
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np

from posttrain.core.errors import BadRequest
from posttrain.pipeline.quantities import is_number

# Digits of a number that is drawn between two others.
_DIGITS = 3


@dataclass(frozen=True)
class Axis:
    """A setting that is looked for.

    Attributes:
        path: Where it stands: search or process, the method, the setting.
        values: What it may be; the two ends if `between`.
        between: Whether it may be any number from the first to the second.
    """

    path: tuple[str, str, str]
    values: tuple[Any, ...]
    between: bool = False

    def drawn(self, random: np.random.Generator) -> Any:
        """One of its values."""
        if not self.between:
            return self.values[int(random.integers(len(self.values)))]
        low, high = self.values
        return float(f"{random.uniform(low, high):.{_DIGITS}g}")


def axes(region: Mapping[str, Any]) -> list[Axis]:
    """What is looked for in a region, in its order.

    Raises:
        BadRequest: If a setting has nothing to choose from.
    """
    found = []
    for part, methods in region.items():
        for method, settings in methods.items():
            for setting, value in (settings or {}).items():
                path = (part, method, setting)
                if isinstance(value, list):
                    if not value:
                        raise BadRequest(f"'{'.'.join(path)}' has no values to choose from.", "List at least one.")
                    found.append(Axis(path, tuple(value)))
                elif isinstance(value, dict) and value.keys() == {"low", "high"}:
                    if not all(is_number(each) for each in value.values()):
                        raise BadRequest(f"'{'.'.join(path)}': low and high are numbers, not {value!r}.")
                    if not value["low"] < value["high"]:
                        raise BadRequest(f"'{'.'.join(path)}': low isn't below high.")
                    found.append(Axis(path, (value["low"], value["high"]), between=True))
    return found


def point(region: Mapping[str, Any], chosen: Mapping[tuple[str, str, str], Any]) -> dict[str, Any]:
    """A region with one value for each setting that is looked for."""
    found: dict[str, Any] = deepcopy(dict(region))
    for (part, method, setting), value in chosen.items():
        found[part][method][setting] = value
    return found


def one_by_one(region: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A point of the first values, and with each other value, or end, of a setting one more: what a region may hold."""
    looked_for = axes(region)
    first = {axis.path: axis.values[0] for axis in looked_for}
    yield point(region, first)
    for axis in looked_for:
        for value in axis.values[1:]:
            yield point(region, {**first, axis.path: value})


def candidates(space: Mapping[str, Mapping[str, Any]], count: int | None, seed: int) -> list[dict[str, Any]]:
    """Points of a space, all different: the regions take turns, and in each one points are drawn at random.

    Args:
        space: Regions by name.
        count: How many points at most; None for all.
        seed: Of the draws.

    Raises:
        BadRequest: If all are wanted of a space that has no end.
    """
    random = np.random.default_rng(seed)
    sizes = {name: _size(axes(region)) for name, region in space.items()}
    endless = [name for name, size in sizes.items() if size is None]
    if count is None and endless:
        raise BadRequest(f"'{endless[0]}' has numbers between two others, so it has no end.", "Give `candidates`.")
    turns = [_points(region, random) for region in space.values()]
    found: list[dict[str, Any]] = []
    while turns and (count is None or len(found) < count):
        for each in list(turns):
            drawn = next(each, None)
            if drawn is None:
                turns.remove(each)
            elif drawn not in found and (count is None or len(found) < count):
                found.append(drawn)
    return found


def _size(looked_for: list[Axis]) -> int | None:
    """Points of a grid; None where there is no end of them."""
    return None if any(axis.between for axis in looked_for) else math.prod(len(axis.values) for axis in looked_for)


def _points(region: Mapping[str, Any], random: np.random.Generator) -> Iterator[dict[str, Any]]:
    """A region's points in random order; without end where it has none."""
    looked_for = axes(region)
    size = _size(looked_for)
    if size is None:
        while True:
            yield point(region, {axis.path: axis.drawn(random) for axis in looked_for})
    for number in random.permutation(size).tolist():
        chosen = {}
        for axis in looked_for:
            number, place = divmod(number, len(axis.values))
            chosen[axis.path] = axis.values[place]
        yield point(region, chosen)


def rounds(count: int, prompts: int, one_in: int) -> list[tuple[int, int]]:
    """Candidates and prompts of each round of the tournament; the last one reads all prompts.

    Args:
        count: Candidates at the beginning.
        prompts: All of them.
        one_in: Of so many candidates one goes on.
    """
    left = [count]
    while left[-1] > one_in:
        left.append(math.ceil(left[-1] / one_in))
    read = [max(1, math.ceil(prompts / one_in**back)) for back in reversed(range(len(left)))]
    return list(zip(left, read))


def told(way: Mapping[str, Any]) -> str:
    """A way of decoding in a few words: its methods with their settings."""
    parts = []
    for methods in way.values():
        for method, settings in methods.items():
            values = (
                f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}"
                for key, value in (settings or {}).items()
            )
            parts.append(" ".join([method, *values]))
    return ", ".join(parts)
