"""compare_decoding: one prompt set, many ways of decoding, in quality, variety, length and speed.

Every way answers every prompt several times. The first way is the one that the others are compared with: differences
are paired by prompt, and their p-values are one-sided and not corrected for how many are looked at. Which way is the
best depends on the use, so one is recommended only by a figure and a direction that the user names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from posttrain.core import recipe
from posttrain.core.catalog import block, blocks, terms
from posttrain.core.errors import BadRequest, did_you_mean
from posttrain.core.events import task
from posttrain.core.settings import Settings
from posttrain.data import dataset
from posttrain.pipeline.steps import Context, Outcome, Step
from posttrain.pipeline.steps._learning import stamp
from posttrain.pipeline.steps._written import Figure, figures, judge_of, questions, write
from posttrain.pipeline.steps.generate import read_prompts
from posttrain.pipeline.views import View, note, samples, scatter, table

_USUAL = Path(__file__).with_suffix(".yaml")
_LABELS = {
    "self_bleu": "Self-BLEU",
    "distinct_1": "distinct-1",
    "distinct_2": "distinct-2",
    "tokens_per_second": "new tokens a second",
}
# Differences of this p-value or more aren't called differences.
_SIGNIFICANT = 0.05
# Percentile intervals from fewer prompts than this are too narrow.
_FEWEST = 20

FigureName = Literal["perplexity", "self_bleu", "distinct_1", "distinct_2", "repetition", "tokens", "tokens_per_second"]


class Way(Settings):
    """A way of decoding."""

    search: block("search") = Field(default_factory=lambda: {"greedy": {}})  # type: ignore[valid-type]
    """How tokens are chosen."""

    process: blocks("process") = Field(default_factory=list)  # type: ignore[valid-type]
    """Changes of the next-token distribution before that, in written order."""


class CompareDecoding(Step):
    """Put ways of decoding side by side."""

    methods: dict[str, Way] | None = None
    """Ways by name, as in {careful: {search: {sampling: {temperature: 0.3}}}}; a YAML file of them; or a list of names
    of usual ways and of searches. The usual ones when not given."""

    prompts: list[str] | str = "builtin:prompts"
    """Prompts, or a data set of prompts."""

    limit: int | None = Field(16, ge=1)
    """Use only the first so many prompts; null uses all."""

    samples: int = Field(3, ge=1)
    """Answers to each prompt; Self-BLEU takes at least two."""

    chat: bool = True
    """Ask through the model's chat template; otherwise the prompt is simply continued."""

    max_new_tokens: int = Field(48, ge=1)
    """Most tokens of an answer."""

    batch_size: int = Field(16, ge=1)
    """Answers at once; the speed depends on it, nothing else."""

    judge: str | None = None
    """Under which model perplexity is taken: an earlier step's name or a reference; by default the model itself."""

    prefer: dict[FigureName, Literal["lower", "higher"]] | None = None
    """By which figure a way is recommended, and whether lower or higher is better, as in {distinct_2: higher}: the best
    by it and those that don't differ from it significantly; of these the fastest."""

    @field_validator("methods", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        """What a file or a list of names stands for, so that a recipe notices when the file changes."""
        if isinstance(value, (str, Path)):
            if Path(value).suffix in (".yaml", ".yml"):
                return recipe.read(value)
            value = [name.strip() for name in str(value).split(",") if name.strip()]
        if isinstance(value, list):
            return {str(name): _usual(str(name)) for name in value}
        return value

    @field_validator("methods")
    @classmethod
    def _some(cls, value: dict[str, Way] | None) -> dict[str, Way] | None:
        if value is not None and not value:
            raise ValueError("there is no method to compare")
        return value

    @field_validator("prefer")
    @classmethod
    def _one(cls, value: dict[str, str] | None) -> dict[str, str] | None:
        if value is not None and len(value) != 1:
            raise ValueError("name one figure")
        return value

    def ways(self) -> dict[str, Way]:
        """The ways that are compared, by name."""
        if self.methods is not None:
            return self.methods
        return {name: Way.parse(entry, f"methods.{name}") for name, entry in recipe.read(_USUAL).items()}

    def inputs(self, context: Context) -> dict[str, Any]:
        """Hash of the prompts, where they come from a data set, and the judge."""
        self.ways()  # a method that doesn't exist is refused before anything is loaded
        if self.prefer == {"self_bleu": "lower"} and self.samples < 2:
            raise BadRequest("Self-BLEU compares answers to the same prompt.", "Raise `samples` to at least 2.")
        found: dict[str, Any] = {"judge": stamp(self.judge, context)} if self.judge else {}
        if not isinstance(self.prompts, list):
            read = dataset.read(self.prompts, lines=True)
            found["prompts"] = {"source": read.source, "hash": read.hash}
        return found

    def run(self, context: Context) -> Outcome:
        """Write with each way and count."""
        prompts = read_prompts(self.prompts)[: self.limit]
        asked, model, judge = questions(prompts, self.chat), context.model, judge_of(self.judge, context)
        counted: dict[str, dict[str, Figure]] = {}
        speeds: dict[str, float] = {}
        texts: dict[str, list[str]] = {}
        with task("Ways of decoding", total=len(self.ways()), unit="ways") as progress:
            for name, way in progress.over(self.ways().items()):
                written = write(
                    model,
                    asked,
                    self.samples,
                    search=way.search,
                    processors=way.process,
                    max_new_tokens=self.max_new_tokens,
                    batch_size=self.batch_size,
                    seed=context.seed,
                )
                counted[name] = figures(written, asked, model, judge)
                speeds[name] = written.tokens_per_second
                texts[name] = [answers[0] for answers in written.texts]
        first = next(iter(counted))
        rows = [
            _row(name, found, speeds[name], counted[first] if name != first else None)
            for name, found in counted.items()
        ]
        recommended = _recommended(self.prefer, counted, speeds) if self.prefer else None
        result: dict[str, Any] = {
            "methods": rows,
            "compared_with": first,
            "prompts": len(prompts),
            "samples": self.samples,
            "judge": self.judge or context.model_name,
            "recommended": recommended,
            "answers": [
                {"prompt": prompt, **{name: texts[name][place] for name in texts}}
                for place, prompt in enumerate(prompts)
            ],
        }
        told = f", recommended: {recommended['method']}" if recommended else ""
        return Outcome(result, _views(result), headline=f"{len(rows)} ways of decoding on {len(prompts)} prompts{told}")


def _usual(name: str) -> Any:
    """A way by its name in the list of usual ones, or a search."""
    usual = recipe.read(_USUAL)
    key = name.replace("-", "_").lower()
    if key in usual:
        return usual[key]
    if key not in terms("search") and ":" not in name:
        raise BadRequest(
            f"There is no usual way of decoding and no search '{name}'.",
            did_you_mean(name, {*usual, *terms("search")}),
        )
    return {"search": name}


def _row(name: str, found: dict[str, Figure], speed: float, first: dict[str, Figure] | None) -> dict[str, Any]:
    return {
        "method": name,
        **{key: figure.value for key, figure in found.items()},
        "tokens_per_second": speed,
        "intervals": {key: figure.interval() for key, figure in found.items()},
        "differences": {key: figure.against(first[key]) for key, figure in found.items()} if first else None,
    }


def _recommended(
    prefer: dict[Any, Any], counted: dict[str, dict[str, Figure]], speeds: dict[str, float]
) -> dict[str, Any]:
    """The best way by a figure, with those that are as good as far as the prompts can tell; of these the fastest."""
    ((key, direction),) = prefer.items()
    best_of = max if direction == "higher" else min
    if key == "tokens_per_second":
        best = best_of(speeds, key=lambda name: speeds[name])
        equals = [best]
    else:
        if key not in next(iter(counted.values())):
            raise BadRequest(f"There is no {_LABELS.get(key, key)} of one answer to a prompt.", "Raise `samples`.")
        best = best_of(counted, key=lambda name: counted[name][key].value)
        equals = [
            name
            for name, found in counted.items()
            if name == best or found[key].against(counted[best][key])["p_value"] >= _SIGNIFICANT
        ]
    extreme = "highest" if direction == "higher" else "lowest"
    return {
        "method": max(equals, key=lambda name: speeds[name]),
        "figure": key,
        "direction": direction,
        "best": best,
        "as_good": [name for name in equals if name != best],
        "rule": f"the fastest of those whose {_LABELS.get(key, key)} is the {extreme} "
        f"or doesn't differ from it significantly (p ≥ {_SIGNIFICANT})",
    }


def _views(result: dict[str, Any]) -> list[View]:
    rows = result["methods"]
    keys = [key for key in rows[0] if key not in ("method", "intervals", "differences")]
    labels = ["method", *(_LABELS.get(key, key) for key in keys)]
    views = [note(_told(rows))] if len(rows) > 1 else []
    views += [table("Side by side", labels, [[row["method"], *(row[key] for key in keys)] for row in rows])]
    between = [key for key in keys if key in rows[0]["intervals"]]
    heads = ["method", *(_LABELS.get(key, key) for key in between)]
    views.append(
        table("95 % intervals", heads, [[row["method"], *(row["intervals"][key] for key in between)] for row in rows])
    )
    if len(rows) > 1:
        shown = [
            [row["method"], *(_difference(row["differences"][key]) for key in between)]
            for row in rows
            if row["differences"]
        ]
        views.append(table(f"Difference from {result['compared_with']} (* p < {_SIGNIFICANT})", heads, shown))
    if "self_bleu" in keys and len(rows) > 1:
        points = {row["method"]: (row["self_bleu"], row["perplexity"]) for row in rows}
        views.append(
            scatter(
                "Quality against variety",
                "Self-BLEU (lower is more varied)",
                "perplexity (lower is more fluent)",
                points,
            )
        )
    views.append(
        note(
            f"{result['samples']} answers to each of {result['prompts']} prompts; perplexity under {result['judge']}. "
            "Self-BLEU and distinct-n compare the answers to one prompt; repetition is within an answer. "
            "A very low perplexity often is repetition.",
            "source",
        )
    )
    if result["prompts"] < _FEWEST:
        views.append(note(f"Intervals from fewer than {_FEWEST} prompts are too narrow.", "warning"))
    if recommended := result["recommended"]:
        views.append(note(f"Recommended: {recommended['method']}, {recommended['rule']}.", "good"))
    names = [row["method"] for row in rows]
    answers = [[answer["prompt"], *(answer[name] for name in names)] for answer in result["answers"][:6]]
    views.append(samples("The first answers", ["prompt", *names], answers))
    return views


def _told(rows: list[dict[str, Any]]) -> str:
    """Which way is ahead in what."""
    fluent = min(rows, key=lambda row: row["perplexity"])["method"]
    fastest = max(rows, key=lambda row: row["tokens_per_second"])["method"]
    told = f"Of {len(rows)} ways of choosing the next token, the most fluent is {fluent}, the fastest {fastest}"
    if "distinct_2" in rows[0]:
        told += f", the most varied {max(rows, key=lambda row: row['distinct_2'])['method']}"
    return f"{told}."


def _difference(found: dict[str, Any]) -> str:
    return f"{found['difference']:+.3g}{' *' if found['p_value'] < _SIGNIFICANT else ''}".replace("-", "−")
