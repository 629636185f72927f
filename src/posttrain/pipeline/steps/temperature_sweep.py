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
from posttrain.decode.search.sampling import Sampling
from posttrain.pipeline.steps import Context, Outcome
from posttrain.pipeline.steps._written import LABELS, Comparing, intervals_view, nats_per_token, trade_off_view
from posttrain.pipeline.views import View, curve, note, samples, table

Array = NDArray[np.float64]

_RESAMPLES = 1000
_RULE = "nearest to the best quality and the best variety of the sweep, both scaled to 0 … 1"


class TemperatureSweep(Comparing):
    """Sweep over temperatures."""

    temperatures: list[float] = [0.2, 0.5, 0.8, 1.0, 1.2, 1.5]
    """The temperatures, at least two."""

    top_k: int = Field(0, ge=0)
    """Draw among this many most probable tokens; 0 among all."""

    top_p: float = Field(1.0, gt=0, le=1)
    """Draw from the smallest set of tokens that together have at least this probability; 1 is all."""

    process: blocks("process") = Field(default_factory=list)  # type: ignore[valid-type]
    """Changes of the next-token distribution before the temperature, in written order."""

    samples: int = Field(4, ge=2)
    """Answers to each prompt at each temperature."""

    @field_validator("temperatures")
    @classmethod
    def _ordered(cls, value: list[float]) -> list[float]:
        if not all(0 <= each < float("inf") for each in value):
            raise ValueError("temperatures are numbers from 0 on")
        if len(set(value)) < 2:
            raise ValueError("a sweep takes at least two different temperatures")
        return sorted(set(value))

    def run(self, context: Context) -> Outcome:
        """Write at each temperature and count."""
        ways = {
            each: (Sampling(temperature=each, top_k=self.top_k, top_p=self.top_p), self.process)
            for each in self.temperatures
        }
        counted = self.count(context, ways, self.samples, "Temperatures", "temperatures")
        all_figures = [found.figures for found in counted.values()]
        nats = np.stack([found["perplexity"].items for found in all_figures])  # [T, n, 2]
        overlap = np.stack([found["self_bleu"].items[:, 0] for found in all_figures])  # [T, n]
        best, shares = recommendation(nats, overlap)
        rows = [
            {
                "temperature": temperature,
                **{key: figure.value for key, figure in found.items()},
                "recommended_share": share,
                "intervals": {key: figure.interval() for key, figure in found.items()},
            }
            for temperature, found, share in zip(self.temperatures, all_figures, shares)
        ]
        prompts = self.asked()
        result: dict[str, Any] = {
            "temperatures": rows,
            "recommended": self.temperatures[best],
            "recommended_share": shares[best],
            "rule": _RULE,
            "prompts": len(prompts),
            "samples": self.samples,
            "judge": self.judge or context.model_name,
            "answers": [
                {"prompt": prompt, "texts": {f"{t:g}": found.firsts[place] for t, found in counted.items()}}
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
    views = [
        table("By temperature", [LABELS.get(key, key) for key in keys], [[row[key] for key in keys] for row in rows]),
        intervals_view("temperature", rows),
        curve(
            "Quality", "temperature", "perplexity (lower is more fluent)", {"perplexity": _points(rows, "perplexity")}
        ),
        curve(
            "Variety",
            "temperature",
            "0 … 1, higher is more varied",
            {
                "1 - Self-BLEU / 100": [(x, 1 - y / 100) for x, y in _points(rows, "self_bleu")],
                **{LABELS[key]: _points(rows, key) for key in ("distinct_1", "distinct_2")},
            },
        ),
        trade_off_view({f"{row['temperature']:g}": row for row in rows}),
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
