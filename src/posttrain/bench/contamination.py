"""Contamination: which items of a benchmark stand in training data, and whether a model scores higher on them.

An item's texts are its columns', each by itself, so that a question is found whatever stands between it and its
answers. Two rules from the literature, both from one pass over the data:

- ``passage``: the longest run of words that an item shares with the data has 13 words, or is the item's longest text
  where that is shorter, but at least 8 (Brown et al., 2020, "Language Models are Few-Shot Learners", appendix C);
- ``overlap``: at least 70 % of the item's 8-grams occur in the data (Chowdhery et al., 2022, "PaLM: Scaling Language
  Modeling with Pathways", section 8).

The data is streamed and may be larger than memory. Items without any text of 8 words are judged by all their texts
joined, and where even these are shorter, not at all. n-grams that more than ten of the benchmark's texts share are set
phrases of its own and don't count. A passage in the data says that the question has been seen, not that its answer has:
a Wikipedia article behind a reading task is found as well. Left out: reworded items, and tests that ask the model
itself (the order of the items, guided completion) and need no training data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from posttrain import __version__
from posttrain.bench.records import Record, rows
from posttrain.bench.runner import Plan
from posttrain.core.errors import BadRequest
from posttrain.core.events import task
from posttrain.core.files import hash_file
from posttrain.data.streaming import Piece, leaves, texts_of
from posttrain.ops.shared_passages import Passage, PassageIndex, passage_in, words_of
from posttrain.ops.significance import difference_interval, share_interval

Rule = Literal["passage", "overlap"]

SHORTEST = 8
PASSAGE = 13
OVERLAP = 0.7

_MOST_TEXTS = 10
# Words that are searched at once.
_BATCH = 1 << 17
# Percentile intervals from fewer items than this are too narrow.
_FEWEST_ITEMS = 20
_SHOWN = 400


@dataclass(frozen=True)
class Found:
    """What an item shares with the training data.

    Attributes:
        origin: The item, ``file:line``.
        member: The task's member it belongs to; None in a task without members.
        words: Length of the longest shared passage.
        share: The share of its 8-grams that occur in the data.
        column: The item's column that holds the passage.
        passage: The passage as it stands in the data; a long one without its end.
        where: Where it begins there, ``file:line``.
    """

    origin: str
    member: str | None
    words: int
    share: float
    column: str
    passage: str
    where: str


@dataclass(frozen=True)
class Split:
    """A model's score on items that were found in the data and on those that weren't.

    Attributes:
        metric: What is compared.
        clean: The score of the clean items; None if there are none.
        contaminated: The score of the others; None if there are none.
        n_clean: How many clean items have a score.
        n_contaminated: How many of the others have.
        difference: Contaminated less clean; None if there is nothing to compare.
        interval: 95 % bootstrap interval of the difference, both drawn anew by themselves; None with fewer than 20
            items on one side.
    """

    metric: str
    clean: float | None
    contaminated: float | None
    n_clean: int
    n_contaminated: int
    difference: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Report:
    """A task beside training data.

    Attributes:
        items: How many items the task has.
        judged: How many are long enough to be judged.
        judged_joined: How many of these have no text of 8 words and are judged by all their texts joined, which are
            found only where the data holds them in the same order.
        rule: What makes an item contaminated.
        found: The contaminated items, in the task's order.
        by_passage: How many are contaminated by the rule of passages.
        by_overlap: How many by the rule of overlaps.
        scores: The model's scores on both kinds, where records of its answers were given.
        signature: How it was made.
    """

    items: int
    judged: int
    judged_joined: int
    rule: Rule
    found: list[Found]
    by_passage: int
    by_overlap: int
    scores: Split | None
    signature: str

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, with the `share` of contaminated items and its 95 % `interval` (Wilson)."""
        share = share_interval(len(self.found), self.judged) if self.judged else None
        return {
            "share": share.value if share else None,
            "interval": [share.low, share.high] if share else None,
            "contaminated": len(self.found),
            "judged": self.judged,
            "judged_joined": self.judged_joined,
            "items": self.items,
            "rule": self.rule,
            "by_passage": self.by_passage,
            "by_overlap": self.by_overlap,
            "scores": asdict(self.scores) if self.scores else None,
            "signature": self.signature,
            "found": [asdict(each) for each in self.found],
        }


@dataclass(frozen=True)
class Check:
    """What came of comparing tasks with training data.

    Attributes:
        tasks: By name.
        files: How many files were read.
        words: How many words they hold, those in overlaps of pieces twice.
        set_phrases: n-grams that weren't looked for, because too many of the tasks' texts share them.
    """

    tasks: dict[str, Report]
    files: int
    words: int
    set_phrases: int


@dataclass(frozen=True)
class _Asked:
    """An item, and the numbers of its texts with their columns; of one without any of 8 words all texts joined."""

    origin: str
    member: str | None
    texts: list[tuple[int, str]]
    joined: bool


@dataclass(frozen=True)
class _Best:
    """The longest passage of a text so far."""

    words: int
    passage: str
    where: str


def check(
    plans: Sequence[Plan],
    files: Sequence[Path],
    *,
    rule: Rule = "passage",
    records: Mapping[str, Sequence[Record]] | None = None,
) -> Check:
    """Look for the items of tasks in training data.

    Args:
        plans: What `posttrain.bench.runner.prepare` returned.
        files: The data's files.
        rule: What makes an item contaminated.
        records: By task the records of a model's answers (`posttrain.bench.records.read`), to compare its scores on
            contaminated and on clean items.

    Raises:
        BadRequest: If a file can't be read, the files hold no words, or a record belongs to no item.
    """
    numbers: dict[tuple[str, ...], int] = {}
    asked = {plan.name: list(_asked(plan, numbers)) for plan in plans}
    index = PassageIndex(list(numbers), SHORTEST, _MOST_TEXTS)
    best, words = _search(index, len(numbers), files)
    if not words:
        raise BadRequest(
            f"The training data holds no words: {', '.join(map(str, files[:5]))}{' …' if len(files) > 5 else ''}.",
            "Check that these are the right files.",
        )
    lengths = [len(text) for text in numbers]
    # Set phrases are told by all tasks together, so these belong to how it was made.
    made = f"rule:{rule}|tasks:{'+'.join(asked)}|train:{_hash(files)}|posttrain:{__version__}"
    reports = {
        plan.name: _report(plan, asked[plan.name], index, best, lengths, rule, (records or {}).get(plan.name), made)
        for plan in plans
    }
    return Check(reports, len(files), words, index.set_phrases)


def _hash(files: Sequence[Path]) -> str:
    """The first 12 hex digits of the SHA-256 of the files' hashes."""
    return hashlib.sha256("".join(map(hash_file, files)).encode()).hexdigest()[:12]


def _asked(plan: Plan, numbers: dict[tuple[str, ...], int]) -> Iterator[_Asked]:
    """The items of a task; their texts are entered into `numbers`."""
    for part in plan.parts:
        for question in part.questions:
            columns = [
                (tuple(words_of(text)), str(column))
                for column, value in question.item.values.items()
                for text in leaves(value)
            ]
            long = [(text, column) for text, column in columns if len(text) >= SHORTEST]
            short = not long
            if short:
                joined = tuple(word for text, _ in columns for word in text)
                long = [(joined, "all columns")] if len(joined) >= SHORTEST else []
            texts = {numbers.setdefault(text, len(numbers)): column for text, column in reversed(long)}
            yield _Asked(question.item.origin, part.member, list(texts.items()), short)


def _search(index: PassageIndex, texts: int, files: Sequence[Path]) -> tuple[list[_Best | None], int]:
    """Of every text its longest passage, and how many words were read."""
    best: list[_Best | None] = [None] * texts
    words = 0
    total = sum(path.stat().st_size for path in files)
    with task("Search the data", total=total, unit="bytes") as progress:
        for path in files:
            pieces: list[Piece] = []
            held: list[int] = []
            begins: list[int] = []
            for piece in texts_of(path):
                pieces.append(piece)
                begins.append(len(held))
                held += index.numbered(words_of(piece.text))
                held.append(0)
                if len(held) >= _BATCH:
                    _note(index.search(np.array(held, dtype=np.int64)), pieces, begins, best)
                    words += len(held) - len(pieces)
                    pieces, held, begins = [], [], []
            _note(index.search(np.array(held, dtype=np.int64)), pieces, begins, best)
            words += len(held) - len(pieces)
            progress.advance(path.stat().st_size)
    return best, words


def _note(
    passages: Sequence[Passage], pieces: Sequence[Piece], begins: Sequence[int], best: list[_Best | None]
) -> None:
    """Keep the passages that are longer than what their texts had before."""
    longest: dict[int, Passage] = {}
    for passage in passages:
        if passage.short not in longest or passage.words > longest[passage.short].words:
            longest[passage.short] = passage
    for short, passage in longest.items():
        known = best[short]
        if known is not None and passage.words <= known.words:
            continue
        number = int(np.searchsorted(begins, passage.place, side="right")) - 1
        piece = pieces[number]
        at, shown = passage_in(piece.text, passage.place - begins[number], passage.words)
        line = piece.line + (piece.text.count("\n", 0, at) if piece.wrapped else 0)
        shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]} …"
        best[short] = _Best(passage.words, shown, f"{piece.path}:{line}")


def _report(
    plan: Plan,
    asked: Sequence[_Asked],
    index: PassageIndex,
    best: Sequence[_Best | None],
    lengths: Sequence[int],
    rule: Rule,
    records: Sequence[Record] | None,
    made: str,
) -> Report:
    found: list[Found] = []
    contaminated: set[int] = set()
    judged: set[int] = set()
    counts = {"passage": 0, "overlap": 0}
    for number, item in enumerate(asked):
        counted = [index.seen(text) for text, _ in item.texts]
        sought = sum(total for _, total in counted)
        if not sought:  # too short, or set phrases only
            continue
        judged.add(number)
        share = sum(seen for seen, _ in counted) / sought
        known = [(each, column) for text, column in item.texts if (each := best[text]) is not None]
        if not known:
            continue
        longest, column = max(known, key=lambda pair: pair[0].words)
        needed = min(PASSAGE, max(lengths[text] for text, _ in item.texts))
        holds = {"passage": longest.words >= needed, "overlap": share >= OVERLAP}
        for name, held in holds.items():
            counts[name] += held
        if holds[rule]:
            contaminated.add(number)
            found.append(Found(item.origin, item.member, longest.words, share, column, longest.passage, longest.where))
    scores = None if records is None else _split(plan, asked, records, judged, contaminated)
    return Report(
        items=len(asked),
        judged=len(judged),
        judged_joined=sum(asked[number].joined for number in judged),
        rule=rule,
        found=found,
        by_passage=counts["passage"],
        by_overlap=counts["overlap"],
        scores=scores,
        signature=f"contamination|task:{plan.name}|version:{plan.selection.task.version}|data:{plan.data}|{made}",
    )


def _split(
    plan: Plan,
    asked: Sequence[_Asked],
    records: Sequence[Record],
    judged: set[int],
    contaminated: set[int],
) -> Split:
    """Scores of both kinds of items."""
    metric = plan.selection.task.metrics[0]
    places = {(item.member, item.origin): number for number, item in enumerate(asked)}
    kinds: dict[bool, list[Record]] = {True: [], False: []}
    for record in records:
        number = places.get((record.get("member"), record["origin"]))
        if number is None:
            raise BadRequest(
                f"{plan.name}: the records hold {record['origin']}, which is none of the task's items.",
                "Give the same data and limit as when they were written.",
            )
        if number in judged:
            kinds[number in contaminated].append(record)
    found = {kind: rows(plan.selection.task, metric, each)[0] for kind, each in kinds.items() if each}
    found = {kind: each for kind, each in found.items() if each.counted}
    values = {kind: float(each.figure(each.items[None])[0]) for kind, each in found.items()}
    difference = interval = None
    if len(found) == 2:
        difference = values[True] - values[False]
        if min(each.counted for each in found.values()) >= _FEWEST_ITEMS:
            between = difference_interval(found[True].items, found[False].items, found[True].figure)
            interval = (between.low, between.high)
    return Split(
        metric=metric,
        clean=values.get(False),
        contaminated=values.get(True),
        n_clean=found[False].counted if False in found else 0,
        n_contaminated=found[True].counted if True in found else 0,
        difference=difference,
        interval=interval,
    )
