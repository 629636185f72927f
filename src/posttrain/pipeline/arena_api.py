"""The Python API for contests: systems' answers in blind pairs, models that judge them, and ratings of the systems.

The commands `posttrain arena` and `posttrain judge` call it. People judge the same pairs with `posttrain feedback`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.align.arena import paired, read_answers
from posttrain.align.feedback import OVERALL, FeedbackStore
from posttrain.align.feedback_items import Answer
from posttrain.bench.judging import Ruling
from posttrain.bench.task_types import Effort
from posttrain.core import catalog, events
from posttrain.core.errors import BadRequest
from posttrain.core.runtime import checked_seed
from posttrain.models import sources
from posttrain.models.language_model import LanguageModel
from posttrain.pipeline.arena import MODEL, judge_items, judges_of, league, model_annotator
from posttrain.pipeline.evaluation_api import Model, loaded, texts_of
from posttrain.pipeline.steps.generate import read_prompts

Answers = str | Path | Iterable[tuple[Answer, Answer]]


def judge(
    model: Model,
    store: str | Path,
    method: Any = None,
    *,
    criterion: str = OVERALL,
    name: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "float32",
    **settings: Any,
) -> dict[str, Any]:
    """Let a model judge pairs of answers in a store, each in both orders; the same call goes on after an interruption.

        >>> posttrain.arena("arena.db").add({"one": "one.jsonl", "two": "two.jsonl"})
        >>> posttrain.judge("smollm2", "arena.db")["consistency"]["consistent"]

    Args:
        model: Who judges, a model or its reference. Some methods change a loaded one.
        store: The file with the pairs, which `arena` and `posttrain feedback` make.
        method: How it is asked: a name or a block of the family `judge`; by default the step's.
        criterion: By what: overall, helpful, harmless, or any other words.
        name: Verdicts are kept under ``model:NAME``; by default the model's and method's names.
        limit: Judge at most so many pairs.
        seed: Of the order.
        device: Where to compute.
        dtype: Precision the model is loaded in.
        **settings: For example swap, margin, batch_size, tokens_per_pass.

    Returns:
        `annotator`, `judged` now, `verdicts` in all, `ties`, `pending`, `consistency` between the orders, agreement
        with `people`, and a `warning` where there is reason for one.

    Raises:
        BadRequest: If there is no such store, model or method, or the model can't judge.
    """
    criterion = criterion.strip().lower()
    if not criterion:
        raise BadRequest("The criterion has no name.", "Usual ones are overall, helpful, harmless and honest.")
    if limit is not None and limit < 1:
        raise BadRequest(f"limit can't be {limit}.")
    verb = catalog.find("step", "judge")
    asked = verb.model_fields["method"].get_default(call_default_factory=True) if method is None else method
    step = verb.parse({"method": asked, "store": str(store), "criterion": criterion, **settings}, "judge")
    ruling = Ruling(step.swap, step.margin)
    reference = (model.reference or "model") if isinstance(model, LanguageModel) else str(model)
    annotator = f"{MODEL}{name}" if name else model_annotator(reference, step.method, ruling)
    with FeedbackStore(store, create=False) as opened:
        if not isinstance(model, LanguageModel):
            sources.resolve(reference)  # no such model: refused before anything is loaded
        judged = judge_items(
            opened,
            step.method,
            loaded(model, device, dtype),
            annotator,
            criterion=criterion,
            ruling=ruling,
            effort=Effort(step.tokens_per_pass, step.batch_size),
            limit=limit,
            seed=seed,
        )
        rows = [row for row in judges_of(opened, criterion) if row["annotator"] == annotator]
        pending = len(opened.pending(annotator, criterion))
    nothing = {"verdicts": 0, "ties": 0, "consistency": None, "people": None, "warning": None}
    found = {**(rows[0] if rows else nothing), "annotator": annotator, "judged": judged, "pending": pending}
    return {"store": str(store), "criterion": criterion, **found}


def arena(store: str | Path) -> Arena:
    """A blind contest of systems, kept in a file: `add` makes pairs of their answers, `results` rates the systems.

        >>> contest = posttrain.arena("arena.db")
        >>> contest.add({"people": "answers.jsonl"}, {"smollm2": "smollm2"}, prompts="builtin:prompts")
        >>> posttrain.judge("smollm2", "arena.db")
        >>> contest.results()["systems"][0]["system"]

    Between the two people judge with `posttrain feedback`, or models with `judge`.

    Args:
        store: The file that keeps items and judgements; made by `add` if it isn't there.
    """
    return Arena(Path(store))


@dataclass(frozen=True)
class Arena:
    """A blind contest of systems.

    Attributes:
        store: The file that keeps items and judgements.
    """

    store: Path

    def add(
        self,
        answers: Mapping[str, Answers] | None = None,
        models: Mapping[str, Model] | None = None,
        prompts: Sequence[str] | str | Path | None = None,
        *,
        per_prompt: int | None = None,
        chat: bool = False,
        seed: int = 0,
        device: str = "auto",
        dtype: str = "float32",
        **settings: Any,
    ) -> dict[str, Any]:
        """Make blind pairs of systems' answers to the same prompts.

        Args:
            answers: By system its answers: a data set of prompts and completions, or pairs of prompt and answer.
            models: By system a model that answers `prompts` now.
            prompts: What the models are asked: prompts, or a data set of them.
            per_prompt: At most so many pairs of each prompt, all pairs of systems in turn; None for all.
            chat: Ask through the models' chat templates.
            seed: Of what models draw, and of the turns.
            device: Where to compute.
            dtype: Precision models are loaded in.
            **settings: How models write, as in the step `generate`: search, process, max_new_tokens, limit …

        Returns:
            `store`, `systems`, `prompts` that were answered by two at least, `items` in all, how many are `new`, and
            the `equal_answers` that were left out.

        Raises:
            BadRequest: If there are fewer than two systems, two have one name, nothing differs, or something can't be
                read; the store is left as it was.
        """
        checked_seed(seed)
        given, writing = answers or {}, models or {}
        if len({*given, *writing}) < 2:
            raise BadRequest("An arena needs two systems at least.", "Give the answers, or a model, of each of them.")
        if twice := sorted(given.keys() & writing.keys()):
            raise BadRequest(f"Two systems are called '{twice[0]}'.", "Give one of them another name.")
        if per_prompt is not None and per_prompt < 1:
            raise BadRequest(f"per_prompt can't be {per_prompt}.")
        if writing and prompts is None:
            raise BadRequest("Models need prompts to answer.", "Name a file of prompts, or builtin:prompts.")
        if not writing and (prompts is not None or settings):
            raise BadRequest("Without models nobody answers prompts.", "Give `models`, or leave out how they write.")
        asked = {} if prompts is None else {"prompts": texts_of(prompts)}
        step = catalog.find("step", "generate").parse({**asked, "chat": chat, **settings}, "generate")
        for each in writing.values():
            if not isinstance(each, LanguageModel):
                sources.resolve(str(each))  # no such model: refused before anything is loaded
        found = {name: _answers(each) for name, each in given.items()}
        questions = read_prompts(step.prompts)[: step.limit] if writing else []
        for name, each in writing.items():
            written = step.answers(loaded(each, device, dtype), questions, seed, chat=step.chat).generations
            found[name] = list(zip(questions, [one.text for one in written if one.sample == 0], strict=True))
        pairing = paired(found, per_prompt=per_prompt, seed=seed)
        if not pairing.items:
            raise BadRequest("The systems gave the same answer to every prompt.", "There is nothing to compare.")
        with FeedbackStore(self.store) as store:
            new = store.add_items(pairing.items)
            if pairing.equal:
                events.message(f"{pairing.equal} pairs left out: both answers say the same.", level="warning")
            return {
                "store": str(self.store),
                "systems": store.systems(),
                "prompts": pairing.prompts,
                "items": store.counts()[0],
                "new": new,
                "equal_answers": pairing.equal,
            }

    def results(
        self,
        *,
        criterion: str = OVERALL,
        annotators: Sequence[str] | None = None,
        anchor: str | None = None,
        k: float = 32.0,
        resamples: int = 1000,
        seed: int = 0,
    ) -> dict[str, Any]:
        """Rate the systems by what was judged (Bradley and Terry's model, with ties; online Elo beside it).

        Args:
            criterion: By what was judged.
            annotators: Whose votes count; by default all people's, or all models' where nobody else has judged.
            anchor: The system rated 1000; the mean of all when not given.
            k: Points that a vote can move in online Elo.
            resamples: Draws of prompts for intervals.
            seed: Of these draws.

        Returns:
            `systems` (a row each, the best first), `pairs`, `votes`, `annotators`, `agreement`, `position_bias`,
            `judges`, and `notes` on what to mind.

        Raises:
            BadRequest: If there is no such store, nobody has judged, or a setting is out of range.
        """
        checked_seed(seed)
        if resamples < 1 or not 0 < k < math.inf:
            raise BadRequest("resamples must be at least 1, and k a number above 0.")
        with FeedbackStore(self.store, create=False) as store:
            found = league(
                store,
                criterion=criterion.strip().lower(),
                annotators=annotators,
                anchor=anchor,
                k=k,
                resamples=resamples,
                seed=seed,
            )
        return {"store": str(self.store), **found}


def _answers(given: Answers) -> list[tuple[Answer, Answer]]:
    return read_answers(str(given)) if isinstance(given, (str, Path)) else list(given)
