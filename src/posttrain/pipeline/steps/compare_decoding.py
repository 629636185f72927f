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
from posttrain.core.catalog import terms
from posttrain.core.errors import BadRequest, did_you_mean
from posttrain.pipeline.steps import Context, Outcome
from posttrain.pipeline.steps._written import LABELS, Comparing, Counted, Way, intervals_view, trade_off_view
from posttrain.pipeline.views import View, note, samples, table

_USUAL = Path(__file__).with_suffix(".yaml")
_LABELS = LABELS | {"tokens_per_second": "new tokens a second"}
# Differences of this p-value or more aren't called differences.
_SIGNIFICANT = 0.05
# Percentile intervals from fewer prompts than this are too narrow.
_FEWEST = 20

FigureName = Literal["perplexity", "self_bleu", "distinct_1", "distinct_2", "repetition", "tokens", "tokens_per_second"]


class CompareDecoding(Comparing):
    """Put ways of decoding side by side."""

    methods: dict[str, Way] | None = None
    """Ways by name, as in {careful: {search: {sampling: {temperature: 0.3}}}}; a YAML file of them; or a list of names
    of usual ways and of searches. The usual ones when not given."""

    samples: int = Field(3, ge=1)
    """Answers to each prompt; Self-BLEU takes at least two."""

    prefer: dict[FigureName, Literal["lower", "higher"]] | None = None
    """By which figure a way is recommended, and whether lower or higher is better, as in {distinct_2: higher}: the best
    by it and those that don't differ from it significantly; of these the fastest."""

    @field_validator("methods", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        """What a file or a list of names stands for, so that a recipe notices when the file changes."""
        if isinstance(value, (str, Path)):
            if Path(value).suffix in (".yaml", ".yml"):
                return recipe.read(value, "ways of decoding by name")
            value = [name.strip() for name in str(value).split(",") if name.strip()]
        if isinstance(value, list):
            if twice := [str(name) for place, name in enumerate(value) if name in value[:place]]:
                raise ValueError(f"{twice[0]} stands twice")
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
        if self.prefer is not None and "self_bleu" in self.prefer and self.samples < 2:
            raise BadRequest("Self-BLEU compares answers to the same prompt.", "Raise `samples` to at least 2.")
        reads = [way.search.inputs() for way in self.ways().values()]
        return super().inputs(context) | ({"searches": reads} if any(reads) else {})

    def run(self, context: Context) -> Outcome:
        """Write with each way and count."""
        ways = {name: (way.search, way.process) for name, way in self.ways().items()}
        counted = self.count(context, ways, self.samples, "Ways of decoding", "ways")
        first = next(iter(counted))
        rows = [_row(name, found, counted[first] if name != first else None) for name, found in counted.items()]
        prompts = self.asked()
        recommended = _recommended(self.prefer, counted) if self.prefer else None
        result: dict[str, Any] = {
            "methods": rows,
            "compared_with": first,
            "prompts": len(prompts),
            "samples": self.samples,
            "judge": self.judge or context.model_name,
            "recommended": recommended,
            "answers": [
                {"prompt": prompt, **{name: found.firsts[place] for name, found in counted.items()}}
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


def _row(name: str, found: Counted, first: Counted | None) -> dict[str, Any]:
    figures = found.figures
    return {
        "method": name,
        **{key: figure.value for key, figure in figures.items()},
        "tokens_per_second": found.tokens_per_second,
        "intervals": {key: figure.interval() for key, figure in figures.items()},
        "differences": {key: figure.against(first.figures[key]) for key, figure in figures.items()} if first else None,
    }


def _recommended(prefer: dict[Any, Any], ways: dict[str, Counted]) -> dict[str, Any]:
    """The best way by a figure, with those that are as good as far as the prompts can tell; of these the fastest."""
    counted = {name: way.figures for name, way in ways.items()}
    speeds = {name: way.tokens_per_second for name, way in ways.items()}
    ((key, direction),) = prefer.items()
    best_of = max if direction == "higher" else min
    if key == "tokens_per_second":
        best = best_of(speeds, key=lambda name: speeds[name])
        equals = [best]
    else:
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
    views.append(intervals_view("method", rows))
    if len(rows) > 1:
        shown = [
            [row["method"], *(_difference(row["differences"][key]) for key in between)]
            for row in rows
            if row["differences"]
        ]
        views.append(table(f"Difference from {result['compared_with']} (* p < {_SIGNIFICANT})", heads, shown))
    if "self_bleu" in keys and len(rows) > 1:
        views.append(trade_off_view({row["method"]: row for row in rows}))
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
