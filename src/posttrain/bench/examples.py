"""What stands before an item: the task's introduction and solved examples.

Examples drawn at random are those that lm-evaluation-harness draws for the same data and seed: one generator for the
whole task, one draw an item in the items' order, and where items and examples come from one split, one more than needed
so that the item itself can be left out.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from posttrain.bench.item import Item
from posttrain.bench.question import Question
from posttrain.bench.source import read_split
from posttrain.bench.task import Examples, Selection
from posttrain.core.errors import BadRequest


@dataclass(frozen=True)
class Pool:
    """What examples are taken from.

    Attributes:
        items: The items they are taken from, in order.
        number: How many each item gets.
        origin: The split's name, or ``fixed``.
        own_split: Whether the items asked about are of the same split.
    """

    items: list[Item]
    number: int
    origin: str
    own_split: bool


def pool(selection: Selection, member: str | None, folder: Path | None, number: int | None) -> Pool:
    """Find the examples of a task.

    Args:
        selection: The task.
        member: The member, for a task that has some.
        folder: Where its data lies.
        number: How many examples an item gets; the task's own number if None.

    Raises:
        BadRequest: If the task has none, or fewer than asked for.
    """
    settings = selection.task.examples
    wanted = number if number is not None else settings.number if settings else 0
    if wanted == 0:
        return Pool([], 0, "none", False)
    if settings is None:
        raise BadRequest(f"{selection.name} is asked without examples, so it can't get {wanted}.")
    if settings.fixed:
        own = {} if member is None else {"member": member}
        items = [
            Item({**row, **own}, f"{selection.file}: examples.fixed[{i}]", str(selection.file))
            for i, row in enumerate(settings.fixed)
        ]
        origin, same = "fixed", False
    else:
        read = read_split(selection, settings.splits, member, folder)
        items, origin, same = read.items, read.split, read.split == selection.task.split
    if len(items) < wanted + (same or settings.spare):
        raise BadRequest(f"{selection.name} has {len(items)} examples ({origin}), which isn't enough for {wanted}.")
    return Pool(items, wanted, origin, same)


def questions(selection: Selection, items: Sequence[Item], examples: Pool) -> list[Question]:
    """Items with what stands before them.

    Args:
        selection: The task.
        items: The items to ask about, the first ones of their split.
        examples: What `pool` found.
    """
    introductions = [item.text(selection.task.preamble, "preamble") for item in items]
    settings = selection.task.examples
    if settings is None or examples.number == 0:
        return [Question(item, introduction) for item, introduction in zip(items, introductions)]
    found, solved = [], cache(lambda i: selection.type.solved(examples.items[i]))
    for item, introduction, chosen in zip(items, introductions, _draws(settings, examples, len(items))):
        found.append(Question(item, introduction, tuple(map(solved, chosen)), settings.separator))
    return found


def _draws(settings: Examples, examples: Pool, items: int) -> Iterator[list[int]]:
    """For each item the places of its examples."""
    generator = random.Random(settings.seed)
    everything = range(len(examples.items))
    for place in range(items):
        if settings.draw == "first":
            chosen: Sequence[int] = everything
        else:
            chosen = generator.sample(everything, examples.number + (examples.own_split or settings.spare))
        yield [i for i in chosen if not (examples.own_split and i == place)][: examples.number]
