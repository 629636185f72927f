"""Systems in a blind contest: their answers to the same prompts become items in pairs, and judgements become votes.

Each pair of different answers to a prompt is an item of its own that knows its authors and shows none of them. Equal
answers are no item; they are counted, because for a user they are a tie. Where there are many systems, `per_prompt`
leaves pairs out in turn, so that all pairs are compared equally often, up to one.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal

from posttrain.align.feedback_items import Answer, Item
from posttrain.core.errors import BadRequest
from posttrain.core.events import message
from posttrain.data import dataset
from posttrain.data.dialogue import as_text
from posttrain.data.record import Completion

Choice = Literal["first", "second", "tie"]

# What `posttrain generate --json` calls its list of answers, and an answer.
_GENERATIONS = "generations"
_WRITTEN = "text"


@dataclass(frozen=True)
class Vote:
    """What an annotator thinks of two systems' answers to a prompt.

    Attributes:
        item: The item's number in the store.
        prompt: A digest that tells prompts apart.
        annotator: Whose vote it is.
        first: The system whose answer was shown first.
        second: The other one.
        choice: Which of the two is better.
        ordered: Whether they were seen in this order; False where nobody knows, or both orders were looked at.
    """

    item: int
    prompt: str
    annotator: str
    first: str
    second: str
    choice: Choice
    ordered: bool


@dataclass(frozen=True)
class Pairing:
    """Items made of systems' answers.

    Attributes:
        items: One a pair of different answers to a prompt.
        prompts: How many prompts two systems or more have answered.
        equal: How many pairs of answers were left out because they say the same.
    """

    items: list[Item]
    prompts: int
    equal: int


def read_answers(reference: str) -> list[tuple[Answer, Answer]]:
    """Prompts and a system's answers to them, from a data set or from what `posttrain generate --json` printed.

    Args:
        reference: A path, ``builtin:NAME`` or ``hub:owner/name`` with prompts and completions (answers, responses …).

    Raises:
        BadRequest: If there is no such set, or a record has no prompt or no answer (names file and line).
    """
    split = _GENERATIONS if _is_result(Path(reference)) else None
    columns = {"completion": _WRITTEN} if split else None
    records = dataset.read(reference, kind="completion", columns=columns, split=split)
    return [(record.prompt, record.completion) for record in records if isinstance(record, Completion)]


def _is_result(path: Path) -> bool:
    """Whether a file is what `posttrain generate --json` printed."""
    if path.suffix != ".json" or not path.is_file():
        return False
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:  # whoever reads the file as data says what is wrong with it
        return False
    return isinstance(value, dict) and _GENERATIONS in value


def paired(
    answers: Mapping[str, Iterable[tuple[Answer, Answer]]], *, per_prompt: int | None = None, seed: int = 0
) -> Pairing:
    """Items of all pairs of systems.

    Args:
        answers: By system, prompts with its answers; of several answers to one prompt the first counts.
        per_prompt: At most so many pairs of each prompt, all pairs in turn; None for all.
        seed: Of the turns.

    Raises:
        BadRequest: If there are fewer than two systems, or no prompt was answered by two of them.
    """
    if len(answers) < 2:
        raise BadRequest(f"{len(answers)} system can't be compared.", "Give the answers of two systems at least.")
    by_prompt: dict[str, tuple[Answer, dict[str, Answer]]] = {}
    for system, given in answers.items():
        several = 0
        for prompt, answer in given:
            known = by_prompt.setdefault(_key(prompt), (prompt, {}))[1]
            several += system in known
            known.setdefault(system, answer)
        if several:
            message(f"{system} has {several} further answers to prompts it had answered; left out.", level="warning")
    shared = [each for each in by_prompt.values() if len(each[1]) > 1]
    if not shared:
        raise BadRequest(
            f"No prompt was answered by two of the systems {', '.join(answers)}.",
            "Let them answer the same prompts, written in the same way.",
        )
    alone = len(by_prompt) - len(shared)
    if alone:
        message(f"{alone} of {len(by_prompt)} prompts left out: one system answered them.", level="warning")
    turns = _Turns(list(answers), seed)
    items: list[Item] = []
    equal = 0
    for prompt, known in shared:
        for first, second in turns.pairs(known, per_prompt):
            if _same(known[first], known[second]):
                equal += 1
            else:
                items.append(Item(prompt, (known[first], known[second]), "arena", (first, second)))
    return Pairing(items, len(shared), equal)


class _Turns:
    """Pairs of systems in turn: those that were used least come first."""

    def __init__(self, systems: Sequence[str], seed: int) -> None:
        self._used = dict.fromkeys(combinations(systems, 2), 0)
        self._random = random.Random(seed)

    def pairs(self, known: Mapping[str, Answer], most: int | None) -> Iterator[tuple[str, str]]:
        """At most so many pairs of the systems that are known."""
        possible = [pair for pair in self._used if pair[0] in known and pair[1] in known]
        if most is not None:
            self._random.shuffle(possible)
            possible = sorted(possible, key=self._used.__getitem__)[:most]
        for pair in possible:
            self._used[pair] += 1
            yield pair


def _key(prompt: Answer) -> str:
    """The same for a text and for a single message of a user with this text."""
    if not isinstance(prompt, str) and len(prompt) == 1 and prompt[0].keys() == {"role", "content"}:
        prompt = prompt[0]["content"] if prompt[0]["role"] == "user" else prompt
    return json.dumps(prompt, sort_keys=True)


def _same(first: Answer, second: Answer) -> bool:
    return as_text(first).strip() == as_text(second).strip()
