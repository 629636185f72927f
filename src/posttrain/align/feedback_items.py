"""What people are asked to compare: a prompt with two or more answers, from a file or sampled from a model.

An item's content decides its identity, not the order its answers came in. They are kept in the order of their hashes,
which says nothing about their quality or origin. Left out: images and sound.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

from posttrain.core.errors import BadRequest
from posttrain.core.events import message
from posttrain.data import dataset
from posttrain.data.dialogue import as_dialogue, type_name
from posttrain.data.record import Completion, Dialogue, Preference, Text, kind_of
from posttrain.data.rows import file_format, rows_of

Answer: TypeAlias = str | Dialogue

LETTERS = "ABCDEFGHIJKLMNOP"
"""Names of answers for people; an item has no more answers than there are letters."""

_ATTEMPTS = 4  # further answers that are drawn for a prompt whose first two say the same


@dataclass(frozen=True)
class Item:
    """A prompt and the answers to be compared.

    Attributes:
        prompt: Text or messages.
        answers: 2 to 16 different answers; messages where the prompt is messages, text where it is text.
        source: Where the item comes from: ``file:line``, or the model that wrote the answers.
        systems: Who wrote each answer, for ratings of systems; empty if that doesn't matter. Nobody who judges sees it,
            and it takes no part in what the item is.
    """

    prompt: Answer
    answers: tuple[Answer, ...]
    source: str = ""
    systems: tuple[str, ...] = ()

    def canonical(self) -> Item:
        """The same item with all parts messages if one of them is, and the answers in the order of their hashes.

        Raises:
            BadRequest: If there are too few or too many answers, two of them are equal, or a text can't be stored.
        """
        place = self.source or "An item"
        if not 2 <= len(self.answers) <= len(LETTERS):
            raise BadRequest(f"{place}: {len(self.answers)} answers, but an item has 2 to {len(LETTERS)}.")
        if self.systems and not (len(self.systems) == len(self.answers) and all(map(str.strip, self.systems))):
            raise BadRequest(f"{place}: {len(self.answers)} answers need the names of as many systems.")
        prompt, answers = self.prompt, list(self.answers)
        if any(not isinstance(part, str) for part in (prompt, *answers)):
            prompt = _messages(prompt, "user")
            answers = [_messages(answer, "assistant") for answer in answers]
        try:
            digests = [_digest(answer) for answer in answers]
            _digest(prompt)
        except UnicodeEncodeError:
            raise BadRequest(f"{place}: a text holds half a character (a lone surrogate), which no file can.") from None
        order = sorted(range(len(answers)), key=digests.__getitem__)
        if any(digests[first] == digests[second] for first, second in pairwise(order)):
            raise BadRequest(f"{place}: two of the answers are equal.", "Compare answers that differ.")
        return replace(
            self,
            prompt=prompt,
            answers=tuple(answers[i] for i in order),
            systems=tuple(self.systems[i] for i in order) if self.systems else (),
        )

    @cached_property
    def hash(self) -> str:
        """SHA-256 of prompt and answers, 64 hex digits; of a canonical item the same in whatever order they came."""
        return hashlib.sha256(_json([self.prompt, list(self.answers)]).encode()).hexdigest()


def _messages(value: Answer, role: str) -> Dialogue:
    return [{"role": role, "content": value}] if isinstance(value, str) else value


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def _digest(value: Answer) -> bytes:
    return hashlib.sha256(_json(value).encode()).digest()


def read_items(reference: str) -> list[Item]:
    """Items from a file: preference records, whose verdict is forgotten, or rows with `prompt` and a list `answers`.

    An answer that stands twice is taken once. Items left with one answer can't be compared; they are counted in a
    warning.

    Args:
        reference: A path, ``builtin:NAME`` or ``hub:owner/name``.

    Raises:
        BadRequest: If there is no such file, a row is malformed (names file and line), or no item is left.
    """
    rows = list(_rows_with_answers(Path(reference)))
    items = rows or [_item_of(record) for record in preferences_of(dataset.read(reference, kind="preference"))]
    distinct = [replace(item, answers=_distinct(item.answers)) for item in items]
    found = [item for item in distinct if len(item.answers) > 1]
    if len(found) < len(items):
        message(f"{len(items) - len(found)} of {len(items)} items left out: their answers are equal.", level="warning")
    if not found:
        raise BadRequest(f"{reference}: there is nothing to compare, all answers to a prompt are equal.")
    return found


def preferences_of(records: dataset.Dataset) -> list[Preference]:
    """The records of a set of preferences.

    Raises:
        BadRequest: If they are of another kind.
    """
    found = [record for record in records if isinstance(record, Preference)]
    if len(found) < len(records):
        raise BadRequest(
            f"{records[0].origin}: preferences need a chosen and a rejected answer, this is a {records.kind} record.",
            "Give data with the columns prompt, chosen and rejected.",
        )
    return found


def _item_of(record: Preference) -> Item:
    return Item(record.prompt, (record.chosen, record.rejected), record.origin)


def _distinct(answers: Sequence[Answer]) -> tuple[Answer, ...]:
    return tuple({_json(answer): answer for answer in answers}.values())


def _rows_with_answers(path: Path) -> Iterator[Item]:
    """The items of a file whose first row has `answers`; none of any other file."""
    if not path.is_file():
        return
    for number, (origin, row) in enumerate(rows_of(path, file_format(path, None))):
        if number == 0 and "answers" not in row:
            return
        prompt = row.get("prompt")
        if not isinstance(prompt, str):
            prompt = as_dialogue(prompt, f"{origin}: 'prompt'")
        elif not prompt.strip():
            raise BadRequest(f"{origin}: 'prompt' is empty.", "Fill it in or remove the line.")
        answers = row.get("answers")
        if not isinstance(answers, list) or not 2 <= len(answers) <= len(LETTERS):
            given = f"a list of {len(answers)}" if isinstance(answers, list) else type_name(answers)
            raise BadRequest(f"{origin}: 'answers' must be a list of 2 to {len(LETTERS)} answers, not {given}.")
        places = (f"{origin}: 'answers', number {position}," for position in range(1, len(answers) + 1))
        read = [each if isinstance(each, str) else as_dialogue(each, place) for each, place in zip(answers, places)]
        yield Item(prompt, tuple(read), origin)


def read_prompts(reference: str) -> list[Answer]:
    """The prompts of a data set, or of a text file with one a line.

    Raises:
        BadRequest: If there is no such set, or a record has no prompt.
    """
    prompts: list[Answer] = []
    for record in dataset.read(reference, lines=True):
        if isinstance(record, Text):
            prompts.append(record.text)
        elif isinstance(record, (Completion, Preference)):
            prompts.append(record.prompt)
        else:
            raise BadRequest(
                f"{record.origin}: a {kind_of(record)} record has no prompt.", "Give a `prompt`, or one text a line."
            )
    return prompts


def sample_items(
    prompts: Sequence[Answer],
    answer: Callable[[Sequence[Answer], int], Sequence[str]],
    *,
    source: str,
    seed: int = 0,
) -> list[Item]:
    """Two different answers to each prompt.

    Where the second answer says what the first says, up to white space at the ends, it is drawn again a few times.
    Prompts that are still left with one answer are counted in a warning.

    Args:
        prompts: Texts or messages.
        answer: Draws one answer to each of some prompts, for a seed.
        source: What the items say about their origin.
        seed: Of all draws.

    Raises:
        BadRequest: If no prompt got two different answers.
    """
    seeds = random.Random(seed)
    first = answer(prompts, seeds.getrandbits(32))
    second: dict[int, str] = {}
    for _ in range(1 + _ATTEMPTS):
        open_ = [number for number in range(len(prompts)) if number not in second]
        if not open_:
            break
        for number, text in zip(open_, answer([prompts[number] for number in open_], seeds.getrandbits(32))):
            if text.strip() != first[number].strip():
                second[number] = text
    if not second:
        raise BadRequest(
            "The model gave the same answer to every prompt each time.", "Raise --temperature or --max-new-tokens."
        )
    if len(second) < len(prompts):
        message(f"{len(prompts) - len(second)} of {len(prompts)} prompts left out: one answer only.", level="warning")
    return [Item(prompts[number], (first[number], second[number]), source) for number in sorted(second)]
