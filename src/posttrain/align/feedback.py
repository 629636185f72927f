"""Human feedback: a file of items and judgements that survives a crash, and the preference pairs that follow from it.

A judgement is one annotator's ranking of an item's answers by one criterion, ties allowed; usual criteria are helpful,
honest and harmless (Askell et al., A General Language Assistant as a Laboratory for Alignment, 2021). Each judgement is
one transaction of SQLite, on disk before `judge` returns. Several processes may use a store at the same time.

Annotators are blind: which answer is shown first follows from a hash of seed, item and annotator, so that a leaning to
one side cancels out. All see the items in one order, so those who stop early have judged the same items.

Left out: weights of annotators and criteria, and models of annotators' skill; a verdict is what more than half say.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import combinations, groupby, product
from pathlib import Path
from typing import Any, Self

from posttrain.align.agreement import krippendorff_alpha
from posttrain.align.arena import Choice, Vote
from posttrain.align.feedback_database import Database
from posttrain.align.feedback_items import Answer, Item
from posttrain.core import files
from posttrain.core.errors import BadRequest
from posttrain.core.events import message
from posttrain.data.record import Preference

OVERALL = "overall"

_NOTED = "item, annotator, criterion, ranks, seconds, time, shown, record"
_JUDGE = f"""INSERT INTO judgements ({_NOTED}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (item, annotator, criterion) DO UPDATE SET ranks = excluded.ranks, seconds = excluded.seconds,
    time = excluded.time, shown = excluded.shown, record = excluded.record"""
_JUDGE_IF_LATER = f"{_JUDGE} WHERE excluded.time > judgements.time"


@dataclass(frozen=True)
class Question:
    """An item as one annotator is to see it.

    Attributes:
        item: The item's number in the store.
        prompt: Text or messages.
        answers: In the order in which they are shown.
        order: For each shown answer, its place in the store.
        annotator: Who is asked.
        criterion: By what.
    """

    item: int
    prompt: Answer
    answers: tuple[Answer, ...]
    order: tuple[int, ...]
    annotator: str
    criterion: str


@dataclass(frozen=True)
class Verdicts:
    """What annotators decided on pairs of answers; a ranking of n answers holds n (n − 1) / 2 pairs.

    Attributes:
        preferences: Pairs in which more than half of the annotators preferred the same answer.
        ties: How many pairs more than half of the annotators called equal.
        disagreements: How many pairs have no such majority.
    """

    preferences: list[Preference]
    ties: int
    disagreements: int


class FeedbackStore:
    """A feedback database in one file.

    Use it in one thread; other threads and processes open the file themselves. While it is open, or after a crash, the
    file of the same name with ``-wal`` holds the newest judgements and belongs to it.

    Args:
        path: The file.
        create: Make the file if it isn't there.

    Raises:
        BadRequest: If the file is something else, or a newer version of posttrain made it, or it is missing and isn't
            to be made.
        Failure: If it is damaged or can't be opened.
    """

    def __init__(self, path: Path | str, create: bool = True) -> None:
        self.path = Path(path)
        self._database = Database(self.path, create)

    def close(self) -> None:
        """Close the file; nothing depends on it being called."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add_items(self, items: Iterable[Item]) -> int:
        """Add what the store doesn't hold yet, all of it or, after an error, nothing.

        Returns:
            How many items are new.

        Raises:
            BadRequest: If an item can't be compared (see `Item.canonical`).
        """
        canonical = [item.canonical() for item in items]
        with self._database.transaction():
            return sum(self._add(item) for item in canonical)

    def question(self, item: int, annotator: str, criterion: str = OVERALL, seed: int = 0) -> Question:
        """One item as the annotator is to see it, always in the same order.

        Raises:
            BadRequest: If there is no such item.
        """
        found = self._database.rows("SELECT id, hash, prompt, answers FROM items WHERE id = ?", item)
        if not found:
            raise BadRequest(f"{self.path} has no item {item}.")
        return _question(found[0], annotator, criterion, seed)

    def pending(self, annotator: str, criterion: str = OVERALL, seed: int = 0) -> list[Question]:
        """What the annotator hasn't judged by the criterion, in an order that depends on the seed only."""
        rows = self._database.rows(
            "SELECT id, hash, prompt, answers FROM items WHERE NOT EXISTS (SELECT 1 FROM judgements"
            " WHERE item = items.id AND annotator = ? AND criterion = ?)",
            *(annotator, criterion),
        )
        rows.sort(key=lambda row: _digest(seed, row[1]))
        return [_question(row, annotator, criterion, seed) for row in rows]

    def judge(
        self,
        question: Question,
        ranks: Sequence[int],
        seconds: float | None = None,
        *,
        ordered: bool = True,
        record: Mapping[str, Any] | None = None,
    ) -> None:
        """Record a judgement, on disk when this returns; it replaces an earlier one of the same annotator.

        Args:
            question: What was asked.
            ranks: For each answer in the order shown its rank; the lowest is the best, equal ranks are a tie.
            seconds: How long the annotator took.
            ordered: Whether the answers were seen in this order, and in no other.
            record: What else the annotator left, JSON-able: reasons, for example.

        Raises:
            BadRequest: If there isn't one rank for each answer, or annotator or criterion has no name.
        """
        if len(ranks) != len(question.answers):
            raise BadRequest(f"{len(ranks)} ranks for {len(question.answers)} answers.", "Give each answer a rank.")
        if not question.annotator.strip() or not question.criterion.strip():
            raise BadRequest("A judgement needs the names of an annotator and of a criterion.")
        stored = [0] * len(ranks)
        for place, rank in zip(question.order, ranks):
            stored[place] = rank
        with self._database.transaction():
            noted = (json.dumps(question.order) if ordered else None, json.dumps(record) if record else None)
            self._judge(question.item, question.annotator, question.criterion, stored, seconds, _now(), *noted)

    def withdraw(self, question: Question) -> bool:
        """Take the annotator's judgement of an item back, so that it is pending again; False if there was none."""
        with self._database.transaction():
            taken = self._database.change(
                "DELETE FROM judgements WHERE item = ? AND annotator = ? AND criterion = ?",
                *(question.item, question.annotator, question.criterion),
            )
        return taken > 0

    def import_preferences(self, preferences: Iterable[Preference], annotator: str, criterion: str = OVERALL) -> int:
        """Take ready pairs in as items that the annotator has judged.

        Several records of one pair count together: the answer chosen more often is better, and equal counts are a tie.

        Args:
            preferences: The pairs. Those whose answers are equal say nothing; they are counted in a warning.
            annotator: Who judged, usually the name of the source.
            criterion: By what.

        Returns:
            How many items were judged.
        """
        items: dict[str, Item] = {}
        votes: Counter[str] = Counter()  # for each item, votes for its first answer less those for its second
        equal = 0
        for record in preferences:
            if record.chosen == record.rejected:
                equal += 1
                continue
            item = Item(record.prompt, (record.chosen, record.rejected), record.origin).canonical()
            items.setdefault(item.hash, item)
            votes[item.hash] += 1 if item.answers[0] == record.chosen else -1
        if equal:
            message(f"{equal} pairs left out: their answers are equal.", level="warning")
        now = _now()
        with self._database.transaction():
            for item in items.values():
                self._add(item)
                balance = votes[item.hash]
                ranks = [1 + (balance < 0), 1 + (balance > 0)]
                self._judge(self._number(item.hash), annotator, criterion, ranks, None, now, None, None)
        return len(items)

    def merge(self, other: FeedbackStore) -> None:
        """Take in all items and judgements of another store; of two judgements of one question the later one counts."""
        # In this order each judgement's item is among the items, whatever is added meanwhile.
        judgements = other._database.rows(f"SELECT {_NOTED} FROM judgements ORDER BY id")
        authors = other._authors()
        items = other._database.rows("SELECT id, hash, prompt, answers, source FROM items ORDER BY id")
        with self._database.transaction():
            numbers = {}
            for number, hash_, prompt, answers, source in items:
                self._add(Item(json.loads(prompt), tuple(json.loads(answers)), source))
                numbers[number] = self._number(hash_)
                self._add_authors(numbers[number], authors.get(number, {}))
            for item, annotator, criterion, ranks, seconds, time, shown, record in judgements:
                noted = (seconds, time, shown, record)
                self._judge(numbers[item], annotator, criterion, json.loads(ranks), *noted, _JUDGE_IF_LATER)

    def counts(self) -> tuple[int, int]:
        """How many items and how many judgements the store holds."""
        ((items, judgements),) = self._database.rows(
            "SELECT (SELECT count(*) FROM items), (SELECT count(*) FROM judgements)"
        )
        return items, judgements

    def unjudged(self, criterion: str = OVERALL) -> int:
        """How many items nobody has judged by the criterion."""
        ((count,),) = self._database.rows(
            "SELECT count(*) FROM items WHERE NOT EXISTS"
            " (SELECT 1 FROM judgements WHERE item = items.id AND criterion = ?)",
            criterion,
        )
        return int(count)

    def annotators(self, criterion: str = OVERALL) -> list[str]:
        """Who has judged by the criterion, in alphabetical order."""
        rows = self._database.rows(
            "SELECT DISTINCT annotator FROM judgements WHERE criterion = ? ORDER BY annotator", criterion
        )
        return [annotator for (annotator,) in rows]

    def export(self, criterion: str = OVERALL) -> Verdicts:
        """The pairs on which a majority of annotators agrees, and how many were dropped for want of one."""
        preferences: list[Preference] = []
        ties = disagreements = 0
        for number, prompt, answers, rankings in self._judged(criterion):
            for first, second in combinations(range(len(answers)), 2):
                votes = Counter(_choice(ranks, first, second) for ranks in rankings)
                choice, count = votes.most_common(1)[0]
                if 2 * count <= len(rankings):
                    disagreements += 1
                elif choice == "tie":
                    ties += 1
                else:
                    better, worse = (first, second) if choice == "first" else (second, first)
                    origin = f"{self.path}:item {number}"
                    preferences.append(Preference(prompt, answers[better], answers[worse], origin))
        return Verdicts(preferences, ties, disagreements)

    def agreement(self, criterion: str = OVERALL) -> float | None:
        """Krippendorff's alpha of the annotators' choices between two answers: the first, the second, a tie.

        Which answer is the first follows from the answers' hashes, so that the two names are equally likely by chance.
        A ranking of n answers is n (n − 1) / 2 choices. None where alpha isn't defined, as with a single annotator.
        """
        return krippendorff_alpha([*by_annotator.values()] for by_annotator in self.choices(criterion).values())

    def choices(
        self, criterion: str = OVERALL, annotators: Collection[str] | None = None
    ) -> dict[tuple[int, int, int], dict[str, Choice]]:
        """What annotators chose between two answers: by item and the two's places in it, by annotator.

        Args:
            criterion: By what.
            annotators: Whose choices; everybody's if None.
        """
        found: dict[tuple[int, int, int], dict[str, Choice]] = {}
        for item, annotator, ranking in self._database.rows(
            "SELECT item, annotator, ranks FROM judgements WHERE criterion = ? ORDER BY item, id", criterion
        ):
            if annotators is None or annotator in annotators:
                ranks = json.loads(ranking)
                for first, second in combinations(range(len(ranks)), 2):
                    choices = found.setdefault((item, first, second), {})
                    choices[annotator] = _choice(ranks, first, second)
        return found

    def votes(self, criterion: str = OVERALL) -> list[Vote]:
        """What annotators chose between answers of two different systems, where it is known who wrote them.

        A ranking of n answers is n (n − 1) / 2 votes. An answer that several systems gave is a vote for each of them.
        """
        authors = self._authors()
        found = []
        for item, prompt, annotator, ranking, shown in self._database.rows(
            "SELECT item, prompt, annotator, ranks, shown FROM judgements JOIN items ON items.id = item"
            " WHERE criterion = ? ORDER BY item, judgements.id",
            criterion,
        ):
            wrote, ranks = authors.get(item, {}), json.loads(ranking)
            digest = hashlib.sha256(prompt.encode()).hexdigest()
            order = range(len(ranks)) if shown is None else json.loads(shown)
            for one, other in combinations(order, 2):
                choice = _choice(ranks, one, other)
                found += [
                    Vote(item, digest, annotator, first, second, choice, shown is not None)
                    for first, second in product(wrote.get(one, ()), wrote.get(other, ()))
                    if first != second
                ]
        return found

    def systems(self) -> list[str]:
        """Who wrote answers, as far as that is known, in alphabetical order."""
        return [name for (name,) in self._database.rows("SELECT DISTINCT system FROM authors ORDER BY system")]

    def records(self, annotator: str, criterion: str = OVERALL) -> list[dict[str, Any]]:
        """What the annotator left beside verdicts, in the order of the items, where anything was left."""
        rows = self._database.rows(
            "SELECT record FROM judgements WHERE annotator = ? AND criterion = ? AND record IS NOT NULL ORDER BY item",
            *(annotator, criterion),
        )
        return [json.loads(record) for (record,) in rows]

    def hash(self) -> str:
        """SHA-256 of items, authors and judgements, 64 hex digits; when and how fast was judged takes no part."""
        digest = hashlib.sha256()
        for query in (
            "SELECT hash, annotator, criterion, ranks, shown FROM items LEFT JOIN judgements ON item = items.id"
            " ORDER BY hash, annotator, criterion",
            "SELECT hash, place, system FROM authors JOIN items ON item = items.id ORDER BY hash, place, system",
        ):
            for row in self._database.rows(query):
                digest.update(json.dumps(row).encode() + b"\n")
        return digest.hexdigest()

    def _judged(self, criterion: str) -> Iterator[tuple[int, Answer, list[Answer], list[list[int]]]]:
        """Each judged item: number, prompt, answers and the rankings it got."""
        rows = self._database.rows(
            "SELECT item, prompt, answers, ranks FROM judgements JOIN items ON items.id = item"
            " WHERE criterion = ? ORDER BY item, judgements.id",
            criterion,
        )
        for (item, prompt, answers), group in groupby(rows, key=lambda row: row[:3]):
            yield item, json.loads(prompt), json.loads(answers), [json.loads(row[3]) for row in group]

    def _add(self, item: Item) -> bool:
        """Add a canonical item, or what isn't known of its authors; False if the item is known."""
        values = (item.hash, json.dumps(item.prompt), json.dumps(item.answers), item.source)
        statement = "INSERT INTO items (hash, prompt, answers, source) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING"
        new = self._database.change(statement, *values) > 0
        if item.systems:
            self._add_authors(self._number(item.hash), {place: [name] for place, name in enumerate(item.systems)})
        return new

    def _add_authors(self, item: int, authors: Mapping[int, Iterable[str]]) -> None:
        for place, systems in authors.items():
            for system in systems:
                self._database.change(
                    "INSERT INTO authors VALUES (?, ?, ?) ON CONFLICT DO NOTHING", item, place, system
                )

    def _authors(self) -> dict[int, dict[int, list[str]]]:
        """By item, and by an answer's place in it, the systems that gave the answer."""
        found: dict[int, dict[int, list[str]]] = {}
        for item, place, system in self._database.rows("SELECT item, place, system FROM authors ORDER BY item, system"):
            found.setdefault(item, {}).setdefault(place, []).append(system)
        return found

    def _number(self, hash_: str) -> int:
        ((number,),) = self._database.rows("SELECT id FROM items WHERE hash = ?", hash_)
        return int(number)

    def _judge(
        self,
        item: int,
        annotator: str,
        criterion: str,
        ranks: Sequence[int],
        seconds: float | None,
        time: str,
        shown: str | None,
        record: str | None,
        statement: str = _JUDGE,
    ) -> None:
        steps = {rank: place for place, rank in enumerate(sorted(set(ranks)), start=1)}
        dense = json.dumps([steps[rank] for rank in ranks])
        self._database.change(statement, item, annotator, criterion, dense, seconds, time, shown, record)


def write_preferences(preferences: Iterable[Preference], path: Path | str) -> None:
    """Write preference records as JSON Lines of prompt, chosen and rejected, atomically."""
    rows = ({"prompt": each.prompt, "chosen": each.chosen, "rejected": each.rejected} for each in preferences)
    files.write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _choice(ranks: Sequence[int], first: int, second: int) -> Choice:
    if ranks[first] == ranks[second]:
        return "tie"
    return "first" if ranks[first] < ranks[second] else "second"


def _question(row: tuple[Any, ...], annotator: str, criterion: str, seed: int) -> Question:
    number, hash_, prompt, answers = row
    stored = json.loads(answers)
    order = sorted(range(len(stored)), key=lambda place: _digest(seed, hash_, annotator, place))
    return Question(
        number, json.loads(prompt), tuple(stored[place] for place in order), tuple(order), annotator, criterion
    )


def _digest(*parts: Any) -> bytes:
    return hashlib.sha256(json.dumps(parts).encode()).digest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
