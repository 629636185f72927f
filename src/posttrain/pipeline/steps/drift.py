"""drift: whether texts of today still come from the population of a reference set, as the current model sees them.

Looked at are how well the model predicts each text (bits per byte), how long it is (tokens), and its label where both
sets have labels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

from pydantic import Field

from posttrain.curate.text_scores import conditions, score_texts, signature
from posttrain.data import dataset
from posttrain.data.record import Labelled
from posttrain.models.language_model import LanguageModel
from posttrain.pipeline.quantities import show
from posttrain.pipeline.steps import Context, Outcome, Step
from posttrain.pipeline.views import facts, note, table
from posttrain.registry.drift import Drift as Found
from posttrain.registry.drift import Population, Quantity, compare_populations, refuse_too_few


class Drift(Step):
    """Compare live texts with a reference set."""

    reads: ClassVar[tuple[str, ...]] = ("reference", "live")

    reference: str
    """What texts were like: a file, hub:owner/name or builtin:NAME."""

    live: str
    """What they are like now."""

    columns: dict[str, str] = {}
    """Maps the names posttrain uses (text, prompt, completion …) to the files' own."""

    limit: int | None = Field(None, ge=1)
    """Use only the first so many texts of each set."""

    level: float = Field(0.01, gt=0, lt=1)
    """p-value, adjusted for the number of quantities, below which a difference is significant."""

    permutations: int = Field(2000, ge=1)
    """Of the tests; more make smaller p-values possible."""

    bins: int = Field(10, ge=2)
    """Of the population stability index; fewer for small sets."""

    chat: bool | None = None
    """Render prompts through the chat template; by default conversations are, and prompt + completion are not."""

    window: int | None = Field(None, ge=2)
    """Tokens the model reads at once; when not given 1024, or the model's context where that is shorter."""

    tokens_per_pass: int = Field(2048, ge=1)
    """Tokens that go through the model together; changes speed and memory, and values only by rounding."""

    def inputs(self, context: Context) -> dict[str, Any]:
        """Hashes of both sets."""
        return self.hashes()

    def hashes(self) -> dict[str, Any]:
        """Hashes of what is read.

        Raises:
            BadRequest: If it can't be read, or a set has too few texts.
        """
        reference, live = self._sets()
        refuse_too_few("reference", len(reference))
        refuse_too_few("live", len(live))
        return {
            "reference": {"source": reference.source, "hash": reference.hash},
            "live": {"source": live.source, "hash": live.hash},
        }

    def _sets(self) -> tuple[dataset.Dataset, dataset.Dataset]:
        first, second = (
            dataset.read(each, columns=self.columns, limit=self.limit, lines=True)
            for each in (self.reference, self.live)
        )
        return first, second

    def run(self, context: Context) -> Outcome:
        """Score both sets, compare, tabulate."""
        found = self.compared(context.model, context.seed)
        rows = [_row(name, each) for name, each in found.quantities.items()]
        views = [
            facts(
                "Drift",
                {"verdict": found.verdict, "reference texts": found.reference_texts, "live texts": found.live_texts},
            ),
            table("Reference and live", _COLUMNS, rows),
            note(f"Signature: {found.signature}", "source"),
            note(_sentence(found), "warning" if found.alarm else "good"),
        ]
        return Outcome(found.to_dict(), views, headline=f"drift: {found.verdict}")

    def compared(self, model: LanguageModel, seed: int) -> Found:
        """Score both sets with a model and compare them."""
        sets = self._sets()
        reference, live = (self._population(model, each) for each in sets)
        found = compare_populations(
            reference, live, level=self.level, bins=self.bins, permutations=self.permutations, seed=seed
        )
        read = {name: each.hash[:12] for name, each in zip(("reference", "live"), sets)}
        test = {"level": self.level, "bins": self.bins, "permutations": self.permutations, "seed": seed}
        made = {**conditions(model, window=self.window, chat=self.chat), **read, **test}
        return replace(found, signature=signature("drift", made))

    def _population(self, model: LanguageModel, read: dataset.Dataset) -> Population:
        scores = score_texts(
            model,
            read.records,
            window=self.window,
            chat=self.chat,
            tokens_per_pass=self.tokens_per_pass,
            name=f"Scoring {read.source}",
        )
        sized = all(score.bytes for score in scores)  # answers that are no plain text have no bytes
        loss = {"bits_per_byte": [score.bits_per_byte for score in scores]} if sized else {}
        nats = {} if sized else {"nats_per_token": [score.nats / score.tokens for score in scores]}
        labels = [record.labels for record in read.records if isinstance(record, Labelled)]
        named = [str(each) for each in labels if isinstance(each, (int, str)) and not isinstance(each, bool)]
        classes: dict[str, Mapping[Hashable, int]] = {}
        if labels and len(named) == len(labels):
            classes["label"] = dict(Counter(named))
        lengths = [float(score.tokens) for score in scores]
        return Population({**loss, **nats, "tokens": lengths}, classes, len(scores))


_COLUMNS = ["quantity", "reference", "live", "distance", "live is higher", "index", "by chance", "p", "drift"]


def _row(name: str, each: Quantity) -> list[Any]:
    shown = [_short(value) if isinstance(value, dict) else value for value in (each.reference, each.live)]
    higher = "–" if each.live_is_higher is None else each.live_is_higher
    return [name, *shown, each.distance, higher, each.psi, each.psi_by_chance, each.p_value, each.verdict]


def _short(shares: dict[str, float]) -> str:
    top = sorted(shares.items(), key=lambda item: -item[1])[:4]
    return ", ".join(f"{name} {show(share, 'share')}" for name, share in top) + (" …" if len(shares) > 4 else "")


def _sentence(found: Found) -> str:
    drifted = [name.replace("_", " ") for name, each in found.quantities.items() if each.verdict == found.verdict]
    if found.verdict == "none":
        return "The live texts may come from the same population as the reference."
    if found.verdict == "slight":
        return f"The live texts differ significantly, but little ({', '.join(drifted)})."
    return f"The live texts come from another population: {found.verdict} drift of {', '.join(drifted)}."
