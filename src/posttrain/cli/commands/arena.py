"""Compare systems by blind judgements of their answers: make the pairs, and later rate the systems.

First `posttrain arena add STORE` makes pairs of the answers of several models to the same prompts, then `posttrain
feedback STORE` asks people which answer is better, without saying who wrote it, or `posttrain judge MODEL STORE` asks a
model, and `posttrain arena results STORE` makes ratings of the judgements.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from posttrain.cli.arguments import Parser, given, seed
from posttrain.cli.commands import Request
from posttrain.core.errors import BadRequest

_WRITING = ("prompts", "max_new_tokens", "temperature", "limit")


def add_arguments(parser: Parser) -> None:
    """What is wanted, and the arguments of each."""
    add = parser.add_subcommand("add", "Make blind pairs of systems' answers to the same prompts.")
    add.add_argument("store", type=Path, help="the file that keeps items and judgements; made if it isn't there")
    add.add_argument(
        "--answers", action="append", default=[], metavar="NAME=F", help="a system's prompts and answers; repeat it"
    )
    add.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="[NAME=]MODEL",
        help="let it answer --prompts; repeat it",
    )
    add.add_argument("--prompts", metavar="F", help="prompts: a data set, or one a line")
    add.add_argument("--limit", type=int, metavar="N", help="use only the first N prompts")
    add.add_argument("--chat", action="store_true", help="ask through the models' chat templates")
    add.add_argument("--max-new-tokens", type=int, metavar="N", help="most tokens of an answer")
    add.add_argument("--temperature", type=float, metavar="X", help="draw tokens; without it the likeliest are taken")
    add.add_argument("--per-prompt", type=int, metavar="N", help="at most N pairs of each prompt, all pairs in turn")
    add.add_recipe_options("search.beam.width=4")

    results = parser.add_subcommand("results", "Rate the systems by what was judged.")
    results.add_argument("store", type=Path, help="the file that keeps items and judgements")
    results.add_argument("--criterion", metavar="C", default="overall", help="by what: overall, helpful, harmless …")
    results.add_argument(
        "--annotator", action="append", metavar="NAME", help="count only this one's votes; may be repeated"
    )
    results.add_argument("--anchor", metavar="SYSTEM", help="the system rated 1000; by default the mean of all is")
    results.add_argument("--k", type=float, metavar="X", default=32.0, help="points a vote can move, in online Elo")
    results.add_argument("--resamples", type=int, metavar="N", default=1000, help="draws of prompts for intervals")
    results.add_argument("--seed", type=seed, metavar="N", default=0, help="seed of these draws")


def run(request: Request) -> dict[str, Any]:
    """add: `store`, `systems`, `items`, `new`, `equal_answers`; results: `systems`, `pairs`, `judges`, `agreement` …"""
    return _add(request.options) if request.options.subcommand == "add" else _results(request.options)


def _results(options: argparse.Namespace) -> dict[str, Any]:
    from posttrain.pipeline.arena_api import Arena

    return Arena(options.store).results(
        criterion=options.criterion,
        annotators=options.annotator,
        anchor=options.anchor,
        k=options.k,
        resamples=options.resamples,
        seed=options.seed,
    )


def _add(options: argparse.Namespace) -> dict[str, Any]:
    from posttrain.cli.single_steps import part
    from posttrain.core.recipe import apply_overrides
    from posttrain.pipeline.arena_api import Arena

    files = [_named(each, "--answers") for each in options.answers]
    models = [_named(each, "--model", optional=True) for each in options.model]
    _check(options, [name for name, _ in [*files, *models]])
    writing: dict[str, Any] = given(options, *_WRITING)
    if options.chat:
        writing["chat"] = True
    if (temperature := writing.pop("temperature", None)) is not None:
        writing["search"] = {"sampling": {"temperature": temperature}}
    values, place = part(apply_overrides(writing, options.set), options.seed)
    return Arena(options.store).add(
        dict(files), dict(models), per_prompt=options.per_prompt, **(values if models else {}), **place
    )


def _named(given: str, option: str, optional: bool = False) -> tuple[str, str]:
    """A system's name and where its answers come from."""
    name, equals, source = given.partition("=")
    if not equals and optional:
        return given.strip(), given.strip()
    if not name.strip() or not source.strip():
        raise BadRequest(f"{option} {given} doesn't say whose answers these are.", f"Write {option} NAME={given}.")
    return name.strip(), source.strip()


def _check(options: argparse.Namespace, names: list[str]) -> None:
    if len(names) < 2:
        raise BadRequest(
            "An arena needs two systems at least.", "Give --answers NAME=FILE or --model MODEL for each of them."
        )
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise BadRequest(f"Two systems are called '{twice}'.", "Write NAME= before one of them.")
    if options.per_prompt is not None and options.per_prompt < 1:
        raise BadRequest(f"--per-prompt can't be {options.per_prompt}.")
    if options.model and not options.prompts:
        raise BadRequest("--model needs --prompts.", "Name a file of prompts, or builtin:prompts.")
    if not options.model:
        for name in _WRITING:
            if getattr(options, name) is not None:
                raise BadRequest(f"--{name.replace('_', '-')} needs --model, which writes the answers.")
        if options.chat or options.set:
            raise BadRequest(f"{'--chat' if options.chat else '--set'} needs --model, which writes the answers.")


def show(result: dict[str, Any]) -> None:
    """What was added; or the ratings, the pairs, the judges, and what to mind."""
    from rich.text import Text

    from posttrain.cli.presentation import present, table_of, write

    if "new" in result:
        present(result)
        return
    told = {key: result[key] for key in ("criterion", "votes", "prompts", "agreement")}
    if bias := result["position_bias"]:
        told["share_for_shown_first"] = bias["share"]
        told["share_by_chance_p"] = bias["p_value"]
    write(Text("ratings", "bold"), table_of([_rounded(row) for row in result["systems"]]), "")
    write(Text("against each other", "bold"), table_of(result["pairs"]), "")
    present({"annotators": ", ".join(result["annotators"]), **{k: v for k, v in told.items() if v is not None}})
    for row in result["judges"]:
        flat = {"verdicts": row["verdicts"], "ties": row["ties"], **(row["consistency"] or {}), **(row["people"] or {})}
        write("")
        present({key: value for key, value in flat.items() if value is not None}, title=row["annotator"])
    for text in result["notes"]:
        write("", Text(text, "yellow"))
    write("", Text(result["signature"], "dim"))


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    """Ratings to whole points."""
    interval = row["interval"]
    return {
        **row,
        "rating": round(row["rating"]),
        "interval": [round(each) for each in interval] if interval else None,
        "online_elo": round(row["online_elo"]),
    }
