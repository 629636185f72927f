"""judge: a model decides between the answers of several models, and its verdicts become ratings.

Each model answers the same prompts, every pair of different answers is judged in both orders, and the systems are rated
by Bradley and Terry's model. The step's ``arena.db`` is a store like those of `posttrain feedback`, so people can judge
the same pairs afterwards, and `posttrain arena results` says how far judge and people agree. With `store` the pairs
come from such a file, which isn't changed.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from posttrain.align.arena import paired
from posttrain.align.feedback import OVERALL, FeedbackStore
from posttrain.bench.judging import Ruling, Swap
from posttrain.bench.task_types import Effort
from posttrain.core import files
from posttrain.core.catalog import block
from posttrain.core.errors import BadRequest, Failure
from posttrain.core.events import task
from posttrain.models.language_model import LanguageModel
from posttrain.models.sources import load, resolve
from posttrain.pipeline.arena import judge_items, judges_of, league, model_annotator
from posttrain.pipeline.quantities import show
from posttrain.pipeline.steps import Context, Outcome
from posttrain.pipeline.steps._answering import Answering
from posttrain.pipeline.steps._learning import stamp
from posttrain.pipeline.steps.generate import hash_of_prompts, read_prompts
from posttrain.pipeline.views import View, facts, note, samples, table

STORE_FILE = "arena.db"
_ANSWERS_FILE = "answers.json"
_NOTHING: dict[str, Any] = {"systems": [], "pairs": [], "judges": [], "notes": [], "votes": 0}


class Judge(Answering):
    """Let a model decide between the answers of models, and rate them."""

    body: ClassVar[str | None] = "method"

    method: block("judge") = Field(default_factory=lambda: {"likelihood": {}})  # type: ignore[valid-type]
    """How the judge is asked, as in {verdict: {max_new_tokens: 128}}."""

    between: list[str] = []
    """Whose answers: names of earlier steps that made a model, `base` for the recipe's own, or references of models."""

    store: str | None = None
    """Instead of `between`: a file with pairs of answers, as `posttrain arena add` and `posttrain feedback` make it."""

    by: str = "base"
    """Who judges: the name of an earlier step, `base`, or the reference of a model."""

    prompts: list[str] | str = "builtin:prompts"
    """What the models are asked: prompts, or a data set of prompts."""

    per_prompt: int | None = Field(None, ge=1)
    """Compare at most so many pairs of models on each prompt, in turn; all of them when not given."""

    swap: Swap = "strict"
    """An answer wins if the judge prefers it in both orders (strict), or by the mean of both preferences (average)."""

    margin: float = Field(0.0, ge=0, lt=0.5)
    """Preferences that differ from ½ by at most this are a tie."""

    criterion: str = Field(OVERALL, min_length=1)
    """By what the judge decides: overall, helpful, harmless, honest, or any other words."""

    anchor: str | None = None
    """The model whose rating is set to 1000; the mean of all when not given."""

    tokens_per_pass: int = Field(2048, ge=1)
    """Tokens the judge reads at once; changes speed and memory, never the verdicts."""

    samples: int = Field(4, ge=0)
    """How many prompts with all answers the report shows."""

    def inputs(self, context: Context) -> dict[str, Any]:
        """What the models are, hashes of prompts or store, and what the search reads."""
        if self.store is None and len(set(self.between)) < 2:
            raise BadRequest("judge compares two models at least.", "Name them in `between`, or give a `store`.")
        if self.store is not None and self.between:
            raise BadRequest("judge takes its answers from `between` or from `store`, not from both.")
        found = super().inputs(context) | {"by": stamp(self.by, context)}
        if self.store is not None:
            with FeedbackStore(self.store, create=False) as store:
                return found | {"store": {"source": self.store, "hash": store.hash()}}
        found["between"] = {name: stamp(name, context) for name in self.between}
        return found | hash_of_prompts(self.prompts)

    def run(self, context: Context) -> Outcome:
        """Let answer, let judge, rate."""
        ruling = Ruling(self.swap, self.margin)
        annotator = model_annotator(self.by, self.method, ruling)
        effort = Effort(self.tokens_per_pass, self.batch_size)
        prompts = [] if self.store is not None else read_prompts(self.prompts)[: self.limit]
        answers: dict[str, list[str]] = {}
        with FeedbackStore(context.folder / STORE_FILE) as store:
            equal = 0
            if self.store is not None:
                with FeedbackStore(self.store, create=False) as given:
                    store.merge(given)
            else:
                answers = self._answers(context, prompts)
                given_answers = {name: list(zip(prompts, texts)) for name, texts in answers.items()}
                pairing = paired(given_answers, per_prompt=self.per_prompt, seed=context.seed)
                store.add_items(pairing.items)
                equal = pairing.equal
                if not pairing.items:
                    words = f"All of {', '.join(answers)} gave the same answers, so there is nothing to judge."
                    return Outcome(_NOTHING | {"equal_answers": equal}, [note(words)], headline="the same answers")
            judge_items(
                store,
                self.method,
                _model(self.by, context),
                annotator,
                criterion=self.criterion,
                ruling=ruling,
                effort=effort,
                seed=context.seed,
            )
            result = self._result(store, annotator, context.seed)
        result |= {"judge": annotator, "equal_answers": equal, "store": STORE_FILE}
        views = self._views(result)
        if self.samples and answers:
            rows = [[prompt, *(texts[i] for texts in answers.values())] for i, prompt in enumerate(prompts)]
            views.append(samples("What was compared", ["prompt", *answers], rows[: self.samples]))
        return Outcome(result, views, headline=_headline(result))

    def _answers(self, context: Context, prompts: list[str]) -> dict[str, list[str]]:
        """Each model's answers; those that an interrupted attempt has left are taken as they are."""
        kept = context.folder / _ANSWERS_FILE
        found: dict[str, list[str]] = files.read_json(kept) if kept.exists() else {}
        with task("Answers", total=len(self.between), unit="models") as progress:
            for name in progress.over(dict.fromkeys(self.between)):
                if name not in found:
                    model = context.model if name == context.model_name else _model(name, context)
                    written = self.answers(model, prompts, context.seed, chat=self.chat).generations
                    found[name] = [each.text for each in written if each.sample == 0]
                    if len(found[name]) != len(prompts):
                        raise Failure(f"'{name}' has no answer to some prompts: the processors allowed none.")
                    files.write_json(kept, found)
        return found

    def _result(self, store: FeedbackStore, annotator: str, seed: int) -> dict[str, Any]:
        if not any(vote.annotator == annotator for vote in store.votes(self.criterion)):
            judges = [row for row in judges_of(store, self.criterion) if row["annotator"] == annotator]
            if not judges:
                raise BadRequest(
                    f"The judge {self.by} gave no verdict on any pair.", "Ask it in another way, or ask another judge."
                )
            return {
                "systems": [],
                "pairs": [],
                "judges": judges,
                "notes": [r["warning"] for r in judges if r["warning"]],
            }
        return league(store, criterion=self.criterion, annotators=[annotator], anchor=self.anchor, seed=seed)

    def _views(self, result: dict[str, Any]) -> list[View]:
        views: list[View] = [note(_story(result))]
        views += [note(text, "warning") for text in result["notes"]]
        if result["systems"]:
            heads = ["model", "rating", "95 % interval", "rank", "wins", "ties", "losses", "online Elo"]
            views.append(table("Ratings", heads, [_rating_row(row) for row in result["systems"]]))
            heads = ["", "against", "wins", "ties", "losses", "win rate", "95 % interval", "p", "p, adjusted"]
            views.append(table("Against each other", heads, [_pair_row(row) for row in result["pairs"]]))
        for row in result["judges"]:
            views.append(facts("The judge", _judge_facts(row)))
        return views


def _model(name: str, context: Context) -> LanguageModel:
    """A model by the name of an earlier step or by reference, loaded anew: a judge may get a head."""
    if name in context.keys:
        return context.load(name)
    resolve(name)
    beside = context.model
    return load(name, device=str(beside.device), dtype=str(beside.network.dtype).removeprefix("torch."))


def _story(result: dict[str, Any]) -> str:
    if not result["systems"]:
        return f"The judge gave {result['judges'][0]['verdicts']} verdicts; nobody knows who wrote the answers."
    best, *_, last = result["systems"]
    words = f"{best['system']} is rated best with {best['rating']:.0f}, {last['system']} last with {last['rating']:.0f}"
    if best["interval"] and last["interval"] and best["interval"][0] <= last["interval"][1]:
        words += "; the intervals of the two overlap"
    return f"{words} ({result['votes']} verdicts on {result['prompts']} prompts)."


def _headline(result: dict[str, Any]) -> str:
    if not result["systems"]:
        return f"{result['judges'][0]['verdicts']} verdicts"
    return ", ".join(f"{row['system']} {row['rating']:.0f}" for row in result["systems"])


def _interval(value: Any) -> str:
    return show(list(value)) if value else "–"


def _rating_row(row: dict[str, Any]) -> list[Any]:
    counts = [row["wins"], row["ties"], row["losses"]]
    return [row["system"], row["rating"], _interval(row["interval"]), row["rank"] or "–", *counts, row["online_elo"]]


def _pair_row(row: dict[str, Any]) -> list[Any]:
    counts = [row["wins"], row["ties"], row["losses"]]
    tested = [row["win_rate"], _interval(row["interval"]), row["p_value"], row["adjusted"]]
    return [row["first"], row["second"], *counts, *tested]


def _judge_facts(row: dict[str, Any]) -> dict[str, Any]:
    found = {"annotator": row["annotator"], "verdicts": row["verdicts"], "ties among them": row["ties"]}
    if steady := row["consistency"]:
        found |= {
            "same verdict in both orders, share": steady["consistent"],
            "95 % interval": _interval(steady["interval"]),
            "always the answer shown first, share": steady["biased_first"],
            "always the answer shown second, share": steady["biased_second"],
            "mean preference for the place shown first": steady["preference_for_first"],
        }
    if people := row["people"]:
        found |= {
            "pairs that people judged too": people["pairs"],
            "agreement with their majority, share": people["accuracy"],
            "Cohen's κ with it": people["kappa"],
            "the people's own α": people["people_alpha"],
        }
    return {key: value for key, value in found.items() if value is not None}
