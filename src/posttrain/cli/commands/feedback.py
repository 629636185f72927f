"""Ask people which answer is better, keep each judgement safely in a file, and export preference pairs.

What is compared comes from a file (preference records, or rows with a prompt and a list of answers) or is sampled from
a model. Questions are asked when standard input is a terminal, or has the answers, one a line, of an --annotator:
a, b, = (tie), s (skip), u (undo the last), q (quit); rankings of more answers as in b a=c. Nobody is shown which answer
comes from where. Whenever it ends, what was judged is kept, and the same command goes on.
"""

from __future__ import annotations

import argparse
import getpass
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.cli.arguments import Parser, given
from posttrain.cli.commands import Request
from posttrain.core import events
from posttrain.core.errors import BadRequest, Interrupted
from posttrain.core.files import refuse_unwritable

if TYPE_CHECKING:
    from posttrain.align.feedback import FeedbackStore
    from posttrain.align.feedback_items import Answer, Item

_SAMPLING = ("prompts", "max_new_tokens", "temperature")


def add_arguments(parser: Parser) -> None:
    """The store, what is added to it, who judges, and what is exported."""
    parser.add_argument("store", type=Path, help="the file that keeps items and judgements")
    parser.add_argument("--pairs", metavar="F", help="answers to compare: preference records, or prompt + answers")
    parser.add_argument("--model", metavar="MODEL", help="sample two answers to each of --prompts from this model")
    parser.add_argument("--prompts", metavar="F", help="prompts: a data set, or one a line")
    parser.add_argument("--chat", action="store_true", help="ask through the model's chat template")
    parser.add_argument("--max-new-tokens", type=int, metavar="N", help="most tokens of a sampled answer")
    parser.add_argument("--temperature", type=float, metavar="X", help="flatter above 1, sharper below")
    parser.add_argument("--annotator", metavar="NAME", help="who judges (default on a terminal: the user's name)")
    parser.add_argument("--criterion", metavar="C", default="overall", help="by what: overall, helpful, harmless …")
    parser.add_argument("--limit", type=int, metavar="N", help="ask at most so many questions; 0 asks none")
    parser.add_argument("--export", type=Path, metavar="F.jsonl", help="write preference records, by majority")
    parser.add_recipe_options("search.sampling.top_p=0.9")


def run(request: Request) -> dict[str, Any]:
    """`store`, `items`, `judged` (now), `judgements` (all), `pending`, `agreement`, `exported`, `ties`, …"""
    from posttrain.align.feedback import FeedbackStore, write_preferences

    options = request.options
    _check(options)
    sampling = _sampling(options) if options.model else None
    with FeedbackStore(options.store, create=bool(options.pairs or options.model)) as store:
        _add(store, options, sampling)
        annotator = _annotator(options)
        judged = _judge(store, annotator, request) if annotator else 0
        verdicts = store.export(options.criterion)
        if options.export:
            write_preferences(verdicts.preferences, options.export)
            if not verdicts.preferences:
                events.message(f"No pair has a winner yet: {options.export} is empty.", level="warning")
        items, judgements = store.counts()
        return {
            "store": str(options.store),
            "criterion": options.criterion,
            "annotator": annotator,
            "items": items,
            "judged": judged,
            "judgements": judgements,
            # Without an annotator: what nobody has judged.
            "pending": _count_pending(store, annotator, options.criterion),
            "agreement": store.agreement(options.criterion),
            "exported": len(verdicts.preferences) if options.export else None,
            "ties": verdicts.ties,
            "disagreements": verdicts.disagreements,
        }


def _count_pending(store: FeedbackStore, annotator: str | None, criterion: str) -> int:
    return len(store.pending(annotator, criterion)) if annotator else store.unjudged(criterion)


def _check(options: argparse.Namespace) -> None:
    options.criterion = options.criterion.strip().lower()
    if not options.criterion:
        raise BadRequest("--criterion has no name.", "Usual ones are overall, helpful, harmless and honest.")
    if options.annotator is not None and not options.annotator.strip():
        raise BadRequest("--annotator has no name.")
    if options.limit is not None and options.limit < 0:
        raise BadRequest(f"--limit can't be {options.limit}.")
    if options.export is not None:
        if options.export.suffix != ".jsonl":
            raise BadRequest(f"{options.export} isn't named .jsonl, which is what is written.", "Choose another name.")
        refuse_unwritable(options.export)
    if options.model and not options.prompts:
        raise BadRequest("--model needs --prompts.", "Name a file of prompts, or builtin:prompts.")
    if options.temperature == 0:
        raise BadRequest("At a temperature of 0 both answers to a prompt are the same.", "Choose one above 0.")
    if not options.model:
        for name in _SAMPLING:
            if getattr(options, name) is not None:
                raise BadRequest(f"--{name.replace('_', '-')} needs --model, which writes the answers.")
        if options.chat or options.set:
            raise BadRequest(f"{'--chat' if options.chat else '--set'} needs --model, which writes the answers.")


def _sampling(options: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """How answers are sampled, as the step `generate` takes it, and where."""
    from posttrain.cli.single_steps import part
    from posttrain.core import catalog
    from posttrain.core.recipe import apply_overrides

    settings = {
        "prompts": options.prompts,
        "chat": options.chat,
        "search": {"sampling": given(options, "temperature")},
        **given(options, "max_new_tokens"),
    }
    values, place = part(apply_overrides(settings, options.set), options.seed)
    return catalog.find("step", "generate").parse(values, "generate"), place


def _add(store: FeedbackStore, options: argparse.Namespace, sampling: tuple[Any, dict[str, Any]] | None) -> None:
    from posttrain.align.feedback_items import read_items

    if options.pairs:
        _tell(store.add_items(read_items(options.pairs)), options.pairs)
    if sampling:
        _tell(store.add_items(_sampled(options.model, *sampling)), options.model)


def _tell(new: int, source: str) -> None:
    events.message(f"{new} new item{'' if new == 1 else 's'} from {source}.")


def _sampled(reference: str, step: Any, place: dict[str, Any]) -> list[Item]:
    """Two answers of the model to each prompt; with a chat template, prompt and answers are kept as messages."""
    from posttrain.align.feedback_items import read_prompts, sample_items

    prompts = read_prompts(step.prompts)[: step.limit]
    if step.chat:
        prompts = [[{"role": "user", "content": each}] if isinstance(each, str) else each for each in prompts]
    seed = place.pop("seed", 0)

    from posttrain.decode.generation import generate
    from posttrain.models.sources import load

    model = load(reference, **place)

    def answer(asked: Sequence[Answer], seed: int) -> list[str]:
        found = generate(
            model,
            asked,
            search=step.search,
            processors=step.process,
            max_new_tokens=step.max_new_tokens,
            stop=step.stop,
            seed=seed,
            batch_size=step.batch_size,
        )
        if len(found.generations) != len(asked):
            raise BadRequest("The search gives several answers a prompt; two are drawn one by one.")
        return [generation.text for generation in found.generations]

    return sample_items(prompts, answer, source=reference, seed=seed)


def _annotator(options: argparse.Namespace) -> str | None:
    """Who judges in this call; None if nobody does."""
    if options.annotator is not None:
        return str(options.annotator).strip()
    if sys.stdin is None or not sys.stdin.isatty():
        return None
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in some containers
        return "annotator"


def _judge(store: FeedbackStore, annotator: str, request: Request) -> int:
    """Ask, and say how many questions were judged."""
    from rich.console import Console

    from posttrain.cli.judging import Judging, read_key, read_line

    options = request.options
    questions = store.pending(annotator, options.criterion, options.seed or 0)
    if not questions:
        events.message(f"{annotator} has judged everything by the criterion '{options.criterion}'.")
    questions = questions[: options.limit]
    if sys.stdin is None or not questions:
        return 0
    watched = sys.stdin.isatty()
    console = Console(stderr=True, highlight=False, quiet=options.quiet and not watched)
    judging = Judging(store, questions, read_key if watched else read_line, console)
    try:
        with request.clear_progress():
            judging.run()
    except KeyboardInterrupt:
        raise Interrupted(
            f"Interrupted; what was judged is kept in {store.path}, in this session {judging.judged}.",
            "The same command goes on.",
        ) from None
    return judging.judged


def show(result: dict[str, Any]) -> None:
    """The figures that are there."""
    from posttrain.cli.presentation import present

    present({key: value for key, value in result.items() if value is not None})
