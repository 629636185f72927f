"""Benchmarks run and scored: tasks in, figures with interval and signature out, and a record of every item.

All items of a task, over all its members, are asked at once, so that whatever texts have in common is computed once.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from posttrain import __version__
from posttrain.bench.contributions import counted_in
from posttrain.bench.examples import Pool, pool, questions
from posttrain.bench.item import Item
from posttrain.bench.question import Question, conversation
from posttrain.bench.result import Place, Result, summarize
from posttrain.bench.source import content, read_split
from posttrain.bench.task import Selection, find
from posttrain.bench.task_types import Effort
from posttrain.core import events
from posttrain.core.catalog import dump
from posttrain.core.errors import BadRequest
from posttrain.core.files import atomic_file, jsonable
from posttrain.core.settings import fingerprint

if TYPE_CHECKING:
    from posttrain.models.language_model import LanguageModel


@dataclass(frozen=True)
class Part:
    """A member's share of a task; a task without members is one part.

    Attributes:
        member: The member's name, None without members.
        category: Its category.
        questions: What is asked, at least one.
        examples: Where the solved examples came from.
    """

    member: str | None
    category: str | None
    questions: list[Question]
    examples: Pool


@dataclass(frozen=True)
class Plan:
    """A task with its data read, ready to be asked.

    Attributes:
        selection: The task.
        parts: Its parts, at least one.
        data: Hash of the items and examples, 16 hex digits.
        template: Hash of everything that makes prompts and scores of them, 16 hex digits.
        chat: Whether the model is asked through its chat template.
    """

    selection: Selection
    parts: list[Part]
    data: str
    template: str
    chat: bool = False

    @property
    def name(self) -> str:
        """The task's name."""
        return self.selection.name

    @property
    def signature(self) -> str:
        """How scores are made, but for the model."""
        task, examples = self.selection.task, self.parts[0].examples
        drawn = f"{examples.origin}/{task.examples.draw}" if task.examples and examples.number else "none"
        conditions = self.selection.type.conditions()
        return (
            f"{self.name}|version:{task.version}|shots:{examples.number}|examples:{drawn}|template:{self.template}"
            f"|data:{self.data}|items:{sum(len(part.questions) for part in self.parts)}"
            + ("|chat" if self.chat else "")
            + (f"|{conditions}" if conditions else "")
        )


def prepare(
    tasks: Sequence[str],
    data: Path | str | None = None,
    limit: int | None = None,
    num_fewshot: int | None = None,
    chat: bool = False,
) -> list[Plan]:
    """Read the data of tasks and make their prompts; needs no model.

    Args:
        tasks: Names of tasks, members or categories, or paths of task files.
        data: The folder below which the tasks' files lie; None to read them from the hub.
        limit: Ask only the first so many items of each task; of one with members, as evenly over them as can be.
        num_fewshot: Solved examples before each item; each task's own number if None.
        chat: Ask through the model's chat template: introduction, examples and prompt as messages.

    Raises:
        BadRequest: If a task, its data or a template isn't right, or a task can't be asked on this machine.
        Failure: If the hub can't be reached.
    """
    if not tasks:
        raise BadRequest("No task is named.", "`posttrain list task` shows those that are there.")
    if limit is not None and limit < 1:
        raise BadRequest(f"limit must be at least 1, not {limit}.")
    if num_fewshot is not None and num_fewshot < 0:
        raise BadRequest(f"num_fewshot can't be negative: {num_fewshot}.")
    selections = [find(name) for name in dict.fromkeys(tasks)]
    if twice := {each.name for each in selections if [other.name for other in selections].count(each.name) > 1}:
        raise BadRequest(f"Two tasks are called {', '.join(sorted(twice))}.", "Rename one of the files.")
    for each in selections:
        each.type.conditions()  # what can't be asked here is refused before anything is read
    folder = Path(data) if data is not None else None
    return [replace(_plan(each, folder, limit, num_fewshot), chat=chat) for each in selections]


def _plan(selection: Selection, folder: Path | None, limit: int | None, num_fewshot: int | None) -> Plan:
    task = selection.task
    named: list[tuple[str | None, str | None]]
    named = [(category, member) for category, members in selection.members.items() for member in members]
    read, missing = [], []
    for category, member in named or [(None, None)]:
        try:
            read.append((category, member, read_split(selection, [task.split], member, folder, limit).items))
        except BadRequest as error:
            missing.append((member, error))
    if missing:
        raise _incomplete(selection, [str(member) for member, _ in missing], len(named), missing[0][1])
    counts = _spread([len(items) for _, _, items in read], limit)
    parts = []
    for (category, member, items), count in zip(read, counts):
        if count:
            examples = pool(selection, member, folder, num_fewshot)
            parts.append(Part(member, category, questions(selection, items[:count], examples), examples))
    wanted = task.examples.splits[:1] if task.examples else []
    origins = {part.examples.origin for part in parts} - {"none", "fixed", *wanted}
    if origins:
        events.message(
            f"{selection.name}: no data for {wanted[0]}, so examples come from {', '.join(sorted(origins))}.", "warning"
        )
    hashes = [fingerprint([content([q.item for q in part.questions]), content(part.examples.items)]) for part in parts]
    settings = [dump(task.type), task.preamble, task.examples.model_dump(mode="json") if task.examples else None]
    own = task.model_dump(mode="json", include={"item_metrics", "corpus_metrics"})
    settings += [own] if any(own.values()) else []
    grouped = task.model_dump(mode="json", include={"group_metrics", "counts_in"})
    settings += [grouped] if any(grouped.values()) else []
    selection = _scored_by_data(selection, [question.item for part in parts for question in part.questions])
    return Plan(selection, parts, fingerprint(hashes), fingerprint(settings))


def _scored_by_data(selection: Selection, items: Sequence[Item]) -> Selection:
    """The task with the metric as its score that the data names first, if that is the same one for all items."""
    first = {names[0] for item in items if (names := counted_in(selection.task, item))}
    if len(first) != 1:
        return selection
    return replace(selection, task=selection.task.model_copy(update={"score": first.pop()}))


def _incomplete(selection: Selection, missing: list[str], members: int, first: BadRequest) -> BadRequest:
    """What to say when some members' data is missing or wrong, or all of it."""
    if members <= 1 or len(missing) == members:
        return first
    shown = ", ".join(missing[:5]) + (" …" if len(missing) > 5 else "")
    return BadRequest(
        f"{selection.name}: {len(missing)} of {members} members can't be read ({shown}). {first.problem}",
        f"Name the others one by one, as {selection.file.stem}_NAME. {first.suggestion}",
    )


def _spread(sizes: Sequence[int], limit: int | None) -> list[int]:
    """How many items of each member make up the limit: they take turns, in order, until one has no more."""
    turns = sorted((turn, member) for member, size in enumerate(sizes) for turn in range(size))
    taken = Counter(member for _, member in turns[:limit])
    return [taken[member] for member in range(len(sizes))]


def evaluate(
    model: LanguageModel, plans: Sequence[Plan], tokens_per_pass: int = 1024, batch_size: int = 16
) -> dict[str, Result]:
    """Ask a model.

    Args:
        model: A causal language model.
        plans: What `prepare` returned.
        tokens_per_pass: Most tokens read at once; no score depends on it beyond rounding.
        batch_size: Most texts written at once; the same holds.

    Returns:
        By task what came of it.

    Raises:
        BadRequest: If the model isn't causal or can't read a task's texts.
        Failure: If its logits aren't numbers.
    """
    of_model = (
        f"model:{model.fingerprint()[:12]}|tokenizer:{model.tokenizer_fingerprint()[:12]}"
        f"|dtype:{str(model.network.dtype).removeprefix('torch.')}|posttrain:{__version__}"
    )
    results = {}
    for plan in plans:
        start = time.perf_counter()
        asked = [question for part in plan.parts for question in part.questions]
        if plan.chat:
            render = conversation(model.tokenizer)
            asked = [replace(question, render=render) for question in asked]
        replies = plan.selection.type.ask(model, asked, Effort(tokens_per_pass, batch_size))
        results[plan.name] = summarize(
            name=plan.name,
            task=plan.selection.task,
            items=[question.item for question in asked],
            places=[Place(part.member, part.category) for part in plan.parts for _ in part.questions],
            replies=replies,
            signature=f"{plan.signature}|{of_model}",
            seconds=time.perf_counter() - start,
        )
        if cut := results[plan.name].cut:
            events.message(
                f"{plan.name}: {cut} of {len(asked)} prompts are longer than the model's context of "
                f"{model.context_length} tokens and lost their beginning.",
                "warning",
            )
    return results


def write_items(results: Mapping[str, Result], path: Path | str) -> None:
    """Write the records of all items as JSON Lines, atomically, each with the signature of the figures made of it."""
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for result in results.values():
            for record in result.records:
                file.write(json.dumps(jsonable(record), ensure_ascii=False) + "\n")
