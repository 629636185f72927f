"""Canaries: random secrets planted in training data, to measure later how much of it a model has memorized.

A canary is a sentence with a secret drawn uniformly from a space of known size; so how likely the model finds it beside
all other secrets says what was memorized and can't be chance (Carlini et al., 2019, "The Secret Sharer").
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from posttrain.core import files
from posttrain.core.errors import BadRequest
from posttrain.data.dataset import Dataset
from posttrain.data.record import Chat, Completion, Record, Text

DIGITS = "0123456789"
PLACE = "{secret}"
TEMPLATE = "The access code of the archive is {secret}."

# Characters of a secret; no model would learn a longer one by heart.
_LONGEST = 1000

Kind = Literal["text", "completion", "chat"]


@dataclass(frozen=True)
class Canary:
    """A sentence with a secret.

    Attributes:
        template: The sentence with ``{secret}`` in the secret's place.
        secret: The secret.
        alphabet: The characters it was drawn from, each place alike and by itself.
        repeats: How often it is planted.
    """

    template: str
    secret: str
    alphabet: str = DIGITS
    repeats: int = 1

    @property
    def space(self) -> int:
        """Number of secrets that could have been drawn."""
        return len(self.alphabet) ** len(self.secret)

    @property
    def bits(self) -> float:
        """log2 of that number: how much there is to know."""
        return len(self.secret) * math.log2(len(self.alphabet))

    @property
    def text(self) -> str:
        """The sentence."""
        return self.template.replace(PLACE, self.secret)

    def record(self, kind: Kind, secret: str | None = None) -> Record:
        """The canary as a record: running text, or the secret as the answer to what comes before it.

        Args:
            kind: Kind of the record.
            secret: Another secret in its place.
        """
        before, _, after = self.template.partition(PLACE)
        said = self.secret if secret is None else secret
        if kind == "text":
            return Text(before + said + after, "canary")
        if kind == "completion":
            return Completion(before, said + after, None, "canary")
        question, answer = {"role": "user", "content": before.strip()}, {"role": "assistant", "content": said + after}
        return Chat([question, answer], None, "canary")


def make_canaries(
    count: int,
    *,
    seed: int = 0,
    template: str = TEMPLATE,
    length: int = 8,
    alphabet: str = DIGITS,
    repeats: Sequence[int] = (1,),
) -> list[Canary]:
    """Draw canaries with different secrets.

    Args:
        count: How many.
        seed: The same seed gives the same secrets.
        template: The sentence, with ``{secret}``.
        length: Characters of a secret.
        alphabet: What they are drawn from.
        repeats: How often each is planted, in turn: (1, 4, 16) gives canaries of each kind.

    Raises:
        BadRequest: If the template has no place for the secret, or not so many secrets exist.
    """
    if template.count(PLACE) != 1:
        raise BadRequest(f"A canary's template needs {PLACE} once: {template!r}.", f"For example: {TEMPLATE}")
    if len(set(alphabet)) != len(alphabet) or len(alphabet) < 2:
        raise BadRequest("A canary's alphabet needs two characters or more, all different.")
    if count < 1 or length < 1 or not repeats or min(repeats) < 1:
        raise BadRequest("The number of canaries, their length and their repeats must be at least 1.")
    if length > _LONGEST:
        raise BadRequest(f"A canary's secret has at most {_LONGEST} characters, not {length}.")
    if count > len(alphabet) ** length // 2:
        raise BadRequest(f"There aren't enough secrets of length {length} for {count} canaries.", "Make them longer.")
    chance = random.Random(f"canaries {seed}")
    secrets: dict[str, None] = {}
    while len(secrets) < count:
        secrets["".join(chance.choice(alphabet) for _ in range(length))] = None
    return [Canary(template, secret, alphabet, repeats[i % len(repeats)]) for i, secret in enumerate(secrets)]


def other_secrets(canary: Canary, count: int, seed: int = 0) -> list[str]:
    """Secrets that could have been drawn in the place of a canary's own: all of them if `count` allows, else a sample.

    Args:
        canary: The canary; its own secret isn't among them.
        count: At most so many.
        seed: Of the sample.
    """
    length, alphabet = len(canary.secret), canary.alphabet
    if canary.space - 1 <= count:
        numbers = range(canary.space)
        return [each for each in (_spelled(n, length, alphabet) for n in numbers) if each != canary.secret]
    chance = random.Random(f"candidates {seed}")
    found: dict[str, None] = {}
    while len(found) < count:
        if (drawn := _spelled(chance.randrange(canary.space), length, alphabet)) != canary.secret:
            found[drawn] = None
    return list(found)


def _spelled(number: int, length: int, alphabet: str) -> str:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, len(alphabet))
        digits.append(alphabet[digit])
    return "".join(reversed(digits))


def plant(dataset: Dataset, canaries: Sequence[Canary], seed: int = 0) -> Dataset:
    """The data set with each canary as often as it repeats, at random places.

    Raises:
        BadRequest: If records of this kind can't hold a sentence.
    """
    if dataset.kind not in ("text", "completion", "chat"):
        raise BadRequest(
            f"Canaries can't be planted among {dataset.kind} records.",
            "Plant them in text, completion or chat records.",
        )
    kind: Kind = dataset.kind  # type: ignore[assignment]
    chance = random.Random(f"plant {seed}")
    records = list(dataset.records)
    for canary in canaries:
        for _ in range(canary.repeats):
            records.insert(chance.randrange(len(records) + 1), canary.record(kind))
    return replace(dataset, records=records)


def write_canaries(canaries: Sequence[Canary], path: Path | str) -> None:
    """Write canaries, one JSON object a line, atomically."""
    files.write_text(
        path, "".join(json.dumps({"text": c.text, **asdict(c)}, ensure_ascii=False) + "\n" for c in canaries)
    )


def read_canaries(path: Path | str) -> list[Canary]:
    """Read what `write_canaries` wrote.

    Raises:
        BadRequest: If there is no such file or a line of it is no canary; names the line.
    """
    path = Path(path)
    if not path.is_file():
        raise BadRequest(f"There is no file of canaries {path}.", "Make one with `posttrain canaries`.")
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
            canary = Canary(
                str(values["template"]),
                str(values["secret"]),
                str(values.get("alphabet", DIGITS)),
                int(values.get("repeats", 1)),
            )
        except (json.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError):
            raise BadRequest(f"{path}:{number}: not a canary.", "It needs `template` and `secret`.") from None
        if canary.template.count(PLACE) != 1 or not canary.secret or not set(canary.secret) <= set(canary.alphabet):
            raise BadRequest(f"{path}:{number}: the secret isn't one of the template's and the alphabet's.")
        found.append(canary)
    if not found:
        raise BadRequest(f"{path} holds no canaries.")
    return found
