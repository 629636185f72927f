"""temperature_sweep: quality against variety over temperatures, and the temperature that is the best compromise.

Each prompt is answered several times at each temperature. Quality is the log-likelihood a token of what was written,
without any temperature and under the model itself or a judge; variety is 1 - Self-BLEU / 100 among the answers to one
prompt. Recommended is the temperature nearest to the utopia point (compromise programming; Yu, 1973, "A Class of
Solutions for Group Decision Problems"): both figures are scaled to 0 … 1 between their worst and best value in the
sweep, and the Euclidean distance to (1, 1) is smallest, the lower of equal ones. So the recommendation depends on the
range that is swept. How sure it is, is the share of bootstrap draws of the prompts that give the same one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from posttrain.core.catalog import blocks
from posttrain.core.events import task
from posttrain.data import dataset
from posttrain.decode.search.sampling import Sampling
from posttrain.pipeline.steps import Context, Outcome, Step
from posttrain.pipeline.steps._learning import stamp
from posttrain.pipeline.steps._written import Figure, figures, judge_of, nats_per_token, questions, write
from posttrain.pipeline.steps.generate import read_prompts
from posttrain.pipeline.views import View, curve, note, samples, scatter, table

Array = NDArray[np.float64]

_RESAMPLES = 1000
_LABELS = {"self_bleu": "Self-BLEU", "distinct_1": "distinct-1", "distinct_2": "distinct-2"}
_RULE = "nearest to the best quality and the best variety of the sweep, both scaled to 0 … 1"


class TemperatureSweep(Step):
    """Sweep over temperatures."""

    temperatures: list[float] = [0.2, 0.5, 0.8, 1.0, 1.2, 1.5]
    """The temperatures, at least two."""

    top_k: int = Field(0, ge=0)
    """Draw among this many most probable tokens; 0 among all."""

    top_p: float = Field(1.0, gt=0, le=1)
    """Draw from the smallest set of tokens that together have at least this probability; 1 is all."""

    process: blocks("process") = Field(default_factory=list)  # type: ignore[valid-type]
    """Changes of the next-token distribution before the temperature, in written order."""

    prompts: list[str] | str = "builtin:prompts"
    """Prompts, or a data set of prompts."""

    limit: int | None = Field(16, ge=1)
    """Use only the first so many prompts; null uses all."""

    samples: int = Field(4, ge=2)
    """Answers to each prompt at each temperature."""

    chat: bool = True
    """Ask through the model's chat template; otherwise the prompt is simply continued."""

    max_new_tokens: int = Field(48, ge=1)
    """Most tokens of an answer."""

    batch_size: int = Field(16, ge=1)
    """Answers at once; never changes what is written."""

    judge: str | None = None
    """Under which model quality is taken: an earlier step's name or a reference; by default the model itself."""

    @field_validator("temperatures")
    @classmethod
    def _ordered(cls, value: list[float]) -> list[float]:
        if not all(0 <= each < float("inf") for each in value):
            raise ValueError("temperatures are numbers from 0 on")
        if len(set(value)) < 2:
            raise ValueError("a sweep takes at least two different temperatures")
        return sorted(set(value))

    def inputs(self, context: Context) -> dict[str, Any]:
        """Hash of the prompts, where they come from a data set, and the judge."""
        found: dict[str, Any] = {"judge": stamp(self.judge, context)} if self.judge else {}
        if not isinstance(self.prompts, list):
            read = dataset.read(self.prompts, lines=True)
            found["prompts"] = {"source": read.source, "hash": read.hash}
        return found

    def run(self, context: Context) -> Outcome:
        """Write at each temperature and count."""
        prompts = read_prompts(self.prompts)[: self.limit]
        asked, model, judge = questions(prompts, self.chat), context.model, judge_of(self.judge, context)
        counted: list[dict[str, Figure]] = []
        texts: list[list[str]] = []
        with task("Temperatures", total=len(self.temperatures), unit="temperatures") as progress:
            for temperature in progress.over(self.temperatures):
                written = write(
                    model,
                    asked,
                    self.samples,
                    search=Sampling(temperature=temperature, top_k=self.top_k, top_p=self.top_p),
                    processors=self.process,
                    max_new_tokens=self.max_new_tokens,
                    batch_size=self.batch_size,
                    seed=context.seed,
                )
                counted.append(figures(written, asked, model, judge))
                texts.append([answers[0] for answers in written.texts])
        nats = np.stack([found["perplexity"].items for found in counted])  # [T, n, 2]
        overlap = np.stack([found["self_bleu"].items[:, 0] for found in counted])  # [T, n]
        best, shares = recommendation(nats, overlap)
        rows = [
            {
                "temperature": temperature,
                **{key: figure.value for key, figure in found.items()},
                "recommended_share": share,
                "intervals": {key: figure.interval() for key, figure in found.items()},
            }
            for temperature, found, share in zip(self.temperatures, counted, shares)
        ]
        result: dict[str, Any] = {
            "temperatures": rows,
            "recommended": self.temperatures[best],
            "recommended_share": shares[best],
            "rule": _RULE,
            "prompts": len(prompts),
            "samples": self.samples,
            "judge": self.judge or context.model_name,
            "answers": [
                {"prompt": prompt, "texts": {f"{t:g}": each[place] for t, each in zip(self.temperatures, texts)}}
                for place, prompt in enumerate(prompts)
            ],
        }
        return Outcome(result, _views(result), headline=f"recommended temperature {self.temperatures[best]:g}")


def compromise(quality: Array, variety: Array) -> NDArray[np.int64]:
    """Which of T settings is nearest to the utopia point; the first of equals.

    Args:
        quality: [R, T], higher is better.
        variety: [R, T], higher is better.

    Returns:
        [R]; where all settings are alike in a figure, it doesn't count.
    """

    def missing(values: Array) -> Array:
        lowest, highest = values.min(-1, keepdims=True), values.max(-1, keepdims=True)
        span = highest - lowest
        return np.divide(highest - values, span, out=np.zeros_like(values), where=span > 0)

    # Rounded, so that equal distances stay equal whatever the last digit.
    return np.hypot(missing(quality), missing(variety)).round(9).argmin(-1)


def recommendation(nats: Array, overlap: Array) -> tuple[int, list[float]]:
    """The best compromise, and the share of bootstrap draws in which each setting is it.

    Args:
        nats: [T, n, 2], nats and tokens of what was written to each of n prompts.
        overlap: [T, n], Self-BLEU among the answers to each prompt, 0 … 100.
    """

    def chosen(draws: NDArray[np.int64]) -> NDArray[np.int64]:
        sums = nats[:, draws].sum(2)  # [T, R, 2]
        quality = -np.stack([nats_per_token(each) for each in sums], axis=-1)
        return compromise(quality, 1 - overlap[:, draws].mean(2).T / 100)

    count = nats.shape[1]
    draws = np.random.default_rng(0).integers(0, count, (_RESAMPLES, count))
    shares = np.bincount(chosen(draws), minlength=len(nats)) / _RESAMPLES
    return int(chosen(np.arange(count)[None])[0]), shares.tolist()


def _views(result: dict[str, Any]) -> list[View]:
    rows = result["temperatures"]
    keys = [key for key in rows[0] if key != "intervals"]
    between = list(rows[0]["intervals"])
    views = [
        table("By temperature", [_LABELS.get(key, key) for key in keys], [[row[key] for key in keys] for row in rows]),
        table(
            "95 % intervals",
            ["temperature", *(_LABELS.get(key, key) for key in between)],
            [[row["temperature"], *(row["intervals"][key] for key in between)] for row in rows],
        ),
        curve(
            "Quality", "temperature", "perplexity (lower is more fluent)", {"perplexity": _points(rows, "perplexity")}
        ),
        curve(
            "Variety",
            "temperature",
            "0 … 1, higher is more varied",
            {
                "1 - Self-BLEU / 100": [(x, 1 - y / 100) for x, y in _points(rows, "self_bleu")],
                **{_LABELS[key]: _points(rows, key) for key in ("distinct_1", "distinct_2")},
            },
        ),
        scatter(
            "Quality against variety",
            "Self-BLEU (lower is more varied)",
            "perplexity (lower is more fluent)",
            {f"{row['temperature']:g}": (row["self_bleu"], row["perplexity"]) for row in rows},
        ),
        note(
            f"Recommended: {result['recommended']:g}, {result['rule']}; {result['recommended_share']:.0%} of the "
            f"bootstrap draws of the prompts agree.",
            "good",
        ),
        note(
            f"{result['samples']} answers to each of {result['prompts']} prompts; perplexity under {result['judge']}. "
            "Self-BLEU and distinct-n compare the answers to one prompt.",
            "source",
        ),
    ]
    names = list(result["answers"][0]["texts"])
    shown = [[each["prompt"], *(each["texts"][name] for name in names)] for each in result["answers"][:6]]
    return [*views, samples("The first answers", ["prompt", *names], shown)]


def _points(rows: list[dict[str, Any]], key: str) -> list[tuple[float, float]]:
    return [(row["temperature"], row[key]) for row in rows]
