"""tune_decoding: look for the way of decoding that serves a use best, by a metric or a reward on its own prompts.

Points of a space of searches and processors compete in a tournament on one part of the prompts (`decoding_space`).
Being the best of many is partly luck, so the winner is then compared with the default on the other part, which no
candidate has seen, prompt by prompt: it is recommended only where it is better there and the paired bootstrap's
p-value, one-sided, is below 0.05. What is recommended is written as a preset, which `posttrain generate --preset FILE`
reads.

Left out: judgements of people, and settings that depend on one another beyond what is drawn.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field, ValidationInfo, field_validator, model_validator

from posttrain.align.reward import Reward
from posttrain.core import files, recipe
from posttrain.core.catalog import block, term_of
from posttrain.core.errors import BadRequest, Failure
from posttrain.core.events import task
from posttrain.core.settings import Settings, place_of
from posttrain.data import dataset
from posttrain.decode.generation import generate
from posttrain.decode.sequence import Question
from posttrain.measure import FEWEST_ITEMS, TextMetric
from posttrain.models.language_model import LanguageModel
from posttrain.ops.bootstrap import paired_test
from posttrain.pipeline.decoding_space import candidates, one_by_one, rounds, told
from posttrain.pipeline.steps import Context, Outcome, Step, located
from posttrain.pipeline.steps._learning import stamp
from posttrain.pipeline.steps._rewards import named_reward
from posttrain.pipeline.steps._written import Way, questions
from posttrain.pipeline.steps.generate import read_prompts
from posttrain.pipeline.steps.score import question
from posttrain.pipeline.views import View, note, samples, table

_USUAL = Path(__file__).with_suffix(".yaml")
_PRESET = "preset.yaml"
# The winner is recommended below this p-value.
_SIGNIFICANT = 0.05
_TOKENS_PER_PASS = 2048
_DEFAULT = "default"


class Region(Settings):
    """A part of the space: a search and processors in which settings may be lists of values or {low, high}."""

    search: dict[str, dict[str, Any] | None] = {"greedy": None}
    """The search."""

    process: dict[str, dict[str, Any] | None] = {}
    """Processors by name, in the order in which they are applied."""

    @field_validator("search", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return {value: None} if isinstance(value, str) else value


class TuneDecoding(Step):
    """Find the way of decoding that is best for a use."""

    reads: ClassVar[tuple[str, ...]] = ("data",)

    data: str = "builtin:handbook_heldout"
    """Questions of the use: with their answers where a metric compares with references, else prompts alone will do."""

    columns: dict[str, str] = {}
    """Maps names that records use (prompt, completion) to the file's own."""

    limit: int | None = Field(64, ge=1)
    """Use only the first so many questions; null uses all."""

    metric: block("measure") = None  # type: ignore[valid-type]
    """A metric of texts that judges, as in rouge; this or `reward`."""

    reward: str | None = None
    """Judges answers: a reward model (an earlier step's name or a folder), or module:function; this or `metric`."""

    default: Way = Way()
    """What is used until now, which the winner must beat; greedy search when not given."""

    space: dict[str, Region] | None = None
    """Regions by name, as in {warm: {search: {sampling: {temperature: [0.5, 0.8]}}}}, or a YAML file of them; the usual
    ones when not given. A model in it may be an earlier step's name."""

    candidates: int | None = Field(16, ge=1)
    """How many points of the space are tried; null tries all."""

    one_in: int = Field(2, ge=2)
    """Of so many candidates one goes on to the next round, which reads so many times the prompts."""

    held_out: float = Field(0.5, gt=0, lt=1)
    """Share of the questions on which the winner is compared with the default, and nothing else."""

    chat: bool = True
    """Ask through the model's chat template; otherwise the prompt is simply continued."""

    max_new_tokens: int = Field(64, ge=1)
    """Most tokens of an answer."""

    stop: list[str] = []
    """Texts that end an answer."""

    batch_size: int = Field(16, ge=1)
    """Answers at once; the speed depends on it, nothing else."""

    save: str | None = None
    """A YAML file to write the recommended way to; in a recipe preset.yaml in the step's own folder when not given."""

    @field_validator("space", mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        """What a file stands for, so that a recipe notices when it changes."""
        return recipe.read(value, "regions by name") if isinstance(value, (str, Path)) else value

    @field_validator("space")
    @classmethod
    def _exists(cls, value: dict[str, Region] | None, info: ValidationInfo) -> dict[str, Region] | None:
        """Refuse methods and settings that don't exist before anything is loaded."""
        if value is not None and not value:
            raise ValueError("the space has no regions")
        for name, region in (value or {}).items():
            for each in one_by_one(region.model_dump()):
                Way.parse(each, f"{place_of(info)}.{name}")
        return value

    @model_validator(mode="after")
    def _one_judge(self) -> TuneDecoding:
        if (self.metric is None) == (self.reward is None):
            raise ValueError("give either `metric` or `reward`, by which answers are judged")
        if self.metric is not None and not isinstance(self.metric, TextMetric):
            raise ValueError(f"{term_of(self.metric)} measures a model, not texts")
        if self.metric is not None and type(self.metric).paired is TextMetric.paired:
            raise ValueError(f"{term_of(self.metric)} has no paired test, so the winner couldn't be compared")
        return self

    def inputs(self, context: Context) -> dict[str, Any]:
        """Hash of the data, what the searches read, and the reward."""
        if self.save is not None:
            files.refuse_unwritable(self.save)
        read = self._records()
        found: dict[str, Any] = {"data": {"source": read.source, "hash": read.hash}}
        if inside := self.default.search.inputs():
            found["search"] = inside
        tried: list[dict[str, Any]] = []
        for region in self._regions().values():
            for each in one_by_one(region):
                if (inside := self._way(each, context).search.inputs()) and inside not in tried:
                    tried.append(inside)
        if tried:
            found["space"] = tried
        return found | ({"reward": stamp(self.reward, context)} if self.reward else {})

    def _records(self) -> dataset.Dataset:
        return dataset.read(self.data, columns=self.columns, limit=self.limit, lines=True)

    def run(self, context: Context) -> Outcome:
        """Hold the tournament, compare, and write the preset."""
        model = context.model
        judge = self._judge(context, model)
        order = list(range(len(judge.asked)))
        random.Random(context.seed).shuffle(order)
        last = min(max(1, round(len(order) * self.held_out)), len(order) - 1)
        fresh, seen = order[:last], order[last:]
        if not fresh or not seen:
            raise BadRequest(f"{self.data} has {len(order)} question.", "Tuning takes at least two.")
        entrants = [_Entrant(_DEFAULT, self.default), *self._drawn(context)]
        plan = rounds(len(entrants), len(seen), self.one_in)
        left = entrants
        with task("Ways of decoding", total=sum(count for count, _ in plan), unit="ways") as progress:
            for count, prompts in plan:
                left = sorted(left, key=lambda entrant: -entrant.value)[:count]
                for entrant in progress.over(left):
                    self._answer(model, entrant, judge, seen[:prompts], context.seed)
        winner = max(left, key=lambda entrant: entrant.value)
        compared = None
        if winner is not entrants[0]:
            rivals = _Entrant(winner.name, winner.way), _Entrant(_DEFAULT, self.default)
            for rival in rivals:
                self._answer(model, rival, judge, fresh, context.seed)
            compared = judge.compare(*rivals, context.seed)
            answers = [[judge.shown(place), *texts] for place, *texts in zip(fresh, rivals[1].texts, rivals[0].texts)]
        else:
            answers = [[judge.shown(place), text] for place, text in zip(winner.places, winner.texts)]
        better = compared is not None and compared["better"]
        chosen = winner if better else entrants[0]
        result: dict[str, Any] = {
            "judged_by": judge.name,
            "higher_is_better": judge.sign > 0,
            "candidates": [each.row(judge.sign) for each in sorted(entrants, key=lambda e: (-len(e.places), -e.value))],
            "rounds": [{"candidates": count, "prompts": prompts} for count, prompts in plan],
            "winner": winner.name,
            "comparison": compared,
            "recommended": chosen.name,
            "preset": {
                "use": f"Tuned by {judge.name} on {len(order)} prompts of {self.data}.",
                **chosen.way.model_dump(mode="json"),
            },
            "save": self.save,
            "answers": answers[:6],
        }
        files.write_text(
            Path(self.save) if self.save else context.folder / _PRESET, recipe.dump(files.jsonable(result["preset"]))
        )
        return Outcome(result, _views(result), headline=f"recommended: {chosen.name}")

    def _regions(self) -> dict[str, dict[str, Any]]:
        """The space, by the regions' names."""
        space = self.space
        if space is None:
            space = {name: Region.parse(entry, f"space.{name}") for name, entry in recipe.read(_USUAL).items()}
        return {name: region.model_dump() for name, region in space.items()}

    def _drawn(self, context: Context) -> list[_Entrant]:
        """The candidates."""
        ways = candidates(self._regions(), self.candidates, context.seed)
        return [_Entrant(told(way), self._way(way, context)) for way in ways]

    def _way(self, point: dict[str, Any], context: Context) -> Way:
        """A point of the space, with models that earlier steps left in place of their names."""
        found: Way = located(Way.parse(point, "space"), {}, context.references)
        return found

    def _judge(self, context: Context, model: LanguageModel) -> _Judge:
        if self.metric is not None and self.metric.needs_references:
            pairs = [question(record, self.chat) for record in self._records()]
            return _Judge([asked for asked, _ in pairs], [[right] for _, right in pairs], self.metric)
        asked = questions(read_prompts(self.data)[: self.limit], self.chat)
        if self.reward is None:
            return _Judge(asked, [], self.metric)
        reward = named_reward(self.reward, context, model, tokens_per_pass=_TOKENS_PER_PASS)
        return _Judge(asked, [], None, reward, self.reward)

    def _answer(self, model: LanguageModel, entrant: _Entrant, judge: _Judge, places: Sequence[int], seed: int) -> None:
        """Let an entrant answer the questions that it hasn't answered, and judge all its answers."""
        new = places[len(entrant.places) :]
        written = generate(
            model,
            [judge.asked[place] for place in new],
            search=entrant.way.search,
            processors=entrant.way.process,
            max_new_tokens=self.max_new_tokens,
            stop=self.stop,
            seed=seed + len(entrant.places),
            batch_size=self.batch_size,
        )
        texts = [generation.text for generation in written.generations if generation.sample == 0]
        if len(texts) != len(new):
            raise Failure(f"{entrant.name}: not every question has an answer, the processors allowed none.")
        entrant.scores += judge.scores(new, texts)
        entrant.places += new
        entrant.texts += texts
        entrant.value = judge.value(entrant)


@dataclass
class _Entrant:
    """A way of decoding in the tournament, with what it has written so far."""

    name: str
    way: Way
    places: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    value: float = 0.0
    """Higher is better."""

    def row(self, sign: int) -> dict[str, Any]:
        return {"way": self.name, "value": sign * self.value, "prompts": len(self.places)}


@dataclass(frozen=True)
class _Judge:
    """What is asked, and by what answers are judged: a metric with references if it needs them, or a reward."""

    asked: Sequence[Question]
    references: Sequence[Sequence[str]]
    metric: TextMetric | None
    reward: Reward | None = None
    reward_name: str | None = None

    @property
    def name(self) -> str:
        return self.reward_name or term_of(self.metric)

    @property
    def sign(self) -> int:
        """-1 where a lower value is better."""
        return 1 if self.metric is None or self.metric.higher_is_better else -1

    def shown(self, place: int) -> str:
        asked = self.asked[place]
        return asked if isinstance(asked, str) else str(asked[-1]["content"])

    def scores(self, places: Sequence[int], texts: Sequence[str]) -> list[float]:
        """Of each answer, where a reward judges."""
        return [] if self.reward is None else self.reward.score([self.asked[place] for place in places], texts)

    def value(self, entrant: _Entrant) -> float:
        """Of all answers, higher is better."""
        if self.metric is None:
            return float(np.mean(entrant.scores))
        return self.sign * self.metric.score(entrant.texts, self._right(entrant)).value

    def compare(self, winner: _Entrant, default: _Entrant, seed: int) -> dict[str, Any]:
        """Both on the same questions, the difference, its interval and p-value, and whether the winner is better."""
        found: dict[str, Any] = {"prompts": len(winner.places), "winner": self.sign * winner.value}
        found |= {"default": self.sign * default.value, "difference": self.sign * (winner.value - default.value)}
        interval, p_value = None, None
        if self.metric is not None:
            test = self.metric.compare(winner.texts, default.texts, self._right(winner), seed=seed)
            interval, p_value = test.interval, test.p_value
        elif len(winner.places) >= FEWEST_ITEMS:
            paired = paired_test(np.array(winner.scores), np.array(default.scores), seed=seed)
            interval, p_value = (paired.difference.low, paired.difference.high), paired.p_value
        ahead = self.sign * found["difference"] > 0
        better = ahead and p_value is not None and p_value < _SIGNIFICANT
        return found | {"interval": list(interval) if interval else None, "p_value": p_value, "better": better}

    def _right(self, entrant: _Entrant) -> list[Sequence[str]]:
        return [self.references[place] for place in entrant.places] if self.references else []


def _views(result: dict[str, Any]) -> list[View]:
    compared, by = result["comparison"], result["judged_by"]
    if compared is None:
        told_of = note(f"Of {len(result['candidates'])} ways of decoding, the one used until now is the best by {by}.")
    else:
        sure = "too few prompts for a p-value" if compared["p_value"] is None else f"p = {compared['p_value']:.3f}"
        text = (
            f"{result['winner']} reaches {compared['winner']:.4g} by {by}, the default {compared['default']:.4g}, on "
            f"{compared['prompts']} prompts that no candidate had seen ({sure})."
        )
        kept = note(f"{text} That isn't enough to say it is better, so the default stays.", "warning")
        told_of = note(f"{text} It is recommended.", "good") if compared["better"] else kept
    rows = [[row["way"], row["value"], row["prompts"]] for row in result["candidates"]]
    direction = "higher" if result["higher_is_better"] else "lower"
    plan = ", ".join(f"{each['candidates']} on {each['prompts']}" for each in result["rounds"])
    heads = ["prompt", "default", "winner"][: len(result["answers"][0])]
    return [
        told_of,
        table("Tournament", ["way", f"{by} ({direction} is better)", "prompts read"], rows),
        note(
            f"Candidates and prompts of the rounds: {plan}. Values of different numbers of prompts aren't comparable."
        ),
        samples("Answers", heads, result["answers"]),
    ]
