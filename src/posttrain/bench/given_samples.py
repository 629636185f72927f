"""Programs that somebody's model has written already, scored: samples in, pass@k out.

A file of them is JSON Lines of `task_id` and `completion`, several lines an item for several samples, the form in which
Chen et al. (2021) published theirs.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from posttrain import __version__
from posttrain.bench.item import Item
from posttrain.bench.result import Place, Result, summarize
from posttrain.bench.runner import Plan, prepare
from posttrain.bench.task import find
from posttrain.bench.task_types.code import Code
from posttrain.core.errors import BadRequest
from posttrain.core.files import hash_file
from posttrain.core.settings import fingerprint
from posttrain.data.rows import Row, rows_of


def score_samples(
    task: str,
    samples: Path | str | Mapping[str, Sequence[str]],
    data: Path | str | None = None,
    pass_at: Sequence[int] = (1,),
    subset: bool = False,
) -> Result:
    """Run given completions with the tests of a task's items.

    Args:
        task: A task of type `code`, by its name or file.
        samples: The file of samples, or by item's name its samples.
        data: The folder below which the task's files lie; None to read them from the hub.
        pass_at: The k of pass@k; every item needs as many samples as the largest.
        subset: Leave items without samples out instead of refusing.

    Raises:
        BadRequest: If the task has no programs, a line or the number of samples isn't right, or programs can't be
            confined here.
        Failure: If the hub can't be reached.
    """
    if not pass_at or min(pass_at) < 1:
        raise BadRequest(f"pass@k needs k of at least 1, not {list(pass_at)}.")
    type_ = find(task).type
    if not isinstance(type_, Code):
        raise BadRequest(f"{task} isn't answered by programs.", "Name a task of type code, such as humaneval.")
    type_ = type_.model_copy(update={"pass_at": tuple(dict.fromkeys(pass_at))})
    (plan,) = prepare([task], data, num_fewshot=0)
    places, items = _items(plan)
    told = "what was given" if isinstance(samples, Mapping) else str(samples)
    completions = _completions(samples, told, {type_.name_of(item): place for place, item in enumerate(items)})
    asked = [place for place in range(len(items)) if place in completions]
    if len(asked) < len(items) and not subset:
        first = next(type_.name_of(item) for place, item in enumerate(items) if place not in completions)
        raise BadRequest(
            f"{told} has no sample for {len(items) - len(asked)} of {len(items)} items of {plan.name}, "
            f"for example {first}.",
            "Score those that are there with --subset.",
        )
    few = min(asked, key=lambda place: len(completions[place]))
    if len(completions[few]) < max(pass_at):
        raise BadRequest(
            f"{told} has {len(completions[few])} samples for {type_.name_of(items[few])}; "
            f"pass@{max(pass_at)} needs {max(pass_at)}."
        )
    digest = fingerprint(dict(samples)) if isinstance(samples, Mapping) else hash_file(samples)
    start = time.perf_counter()
    replies = type_.judge([items[place] for place in asked], [completions[place] for place in asked])
    return summarize(
        name=plan.name,
        task=plan.selection.task.model_copy(update={"type": type_}),
        items=[items[place] for place in asked],
        places=[places[place] for place in asked],
        replies=replies,
        signature=f"{plan.signature}|samples:{digest[:12]}|posttrain:{__version__}",
        seconds=time.perf_counter() - start,
    )


def _items(plan: Plan) -> tuple[list[Place], list[Item]]:
    places = [Place(part.member, part.category) for part in plan.parts for _ in part.questions]
    return places, [question.item for part in plan.parts for question in part.questions]


def _completions(
    samples: Path | str | Mapping[str, Sequence[str]], told: str, known: dict[str, int]
) -> dict[int, list[str]]:
    """The completions of each item, by its place."""
    found: dict[int, list[str]] = {}
    for origin, row in _rows(samples):
        name, text = row.get("task_id"), row.get("completion")
        if name is None or not isinstance(text, str):
            raise BadRequest(f"{origin} needs `task_id` and, as a text, `completion`; it has {', '.join(row)}.")
        if str(name) not in known:
            raise BadRequest(f"{origin}: the task has no item '{name}'.", f"Its first is {next(iter(known))}.")
        found.setdefault(known[str(name)], []).append(text)
    if not found:
        raise BadRequest(f"{told} has no samples.")
    return found


def _rows(samples: Path | str | Mapping[str, Sequence[str]]) -> Iterable[Row]:
    """Each sample with where it stands."""
    if not isinstance(samples, Mapping):
        return rows_of(Path(samples), ".jsonl")
    return (
        (f"Sample {number} of '{name}'", {"task_id": name, "completion": text})
        for name, texts in samples.items()
        for number, text in enumerate(texts, start=1)
    )
