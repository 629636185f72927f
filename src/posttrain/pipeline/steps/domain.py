"""domain: which of several models predicts each text best, and which one fits the whole set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any, ClassVar

from pydantic import Field

from posttrain.core.errors import BadRequest
from posttrain.curate.domain import Domain as TextDomain
from posttrain.curate.domain import Fit, domains, fits
from posttrain.curate.filtering import as_row
from posttrain.curate.text_scores import conditions, score_texts, signature
from posttrain.data import dataset
from posttrain.data.writing import write_rows
from posttrain.models.language_model import LanguageModel
from posttrain.models.sources import load, resolve
from posttrain.pipeline.quantities import show
from posttrain.pipeline.steps import Context, Outcome, Step
from posttrain.pipeline.views import note, table

TEXTS_FILE = "texts.jsonl"


class Domain(Step):
    """Tell which model's domain each text belongs to."""

    reads: ClassVar[tuple[str, ...]] = ("data",)

    data: str
    """Texts, labelled texts, or prompts with answers: a file, hub:owner/name or builtin:NAME."""

    models: list[str] = Field(min_length=1)
    """The models beside the current one: names of earlier steps, or references."""

    columns: dict[str, str] = {}
    """Maps the names posttrain uses (text, prompt, completion …) to the file's own."""

    limit: int | None = Field(None, ge=1)
    """Use only the first so many records."""

    min_margin: float = Field(0.0, ge=0)
    """Bits per byte by which the best model must be better than the second best; below it a text has no domain."""

    chat: bool | None = None
    """Render prompts through the chat template; by default conversations are, and prompt + completion are not."""

    window: int | None = Field(None, ge=2)
    """Tokens a model reads at once; when not given 1024, or its context where that is shorter."""

    tokens_per_pass: int = Field(2048, ge=1)
    """Tokens that go through a model together; changes speed and memory, and values only by rounding."""

    def inputs(self, context: Context) -> dict[str, Any]:
        """Hash of the data, keys of the models."""
        for name in self.models:
            if name not in context.keys:
                resolve(name)
        return self.hashes() | {"models": {name: context.keys.get(name) for name in self.models}}

    def hashes(self) -> dict[str, Any]:
        """The hash of what is read."""
        read = self._read()[0]
        return {"data": {"source": read.source, "hash": read.hash}}

    def _read(self) -> tuple[dataset.Dataset, list[dict[str, Any]]]:
        return dataset.read_with_rows(self.data, columns=self.columns, limit=self.limit, lines=True)

    def run(self, context: Context) -> Outcome:
        """Score the texts under one model after the other, and compare."""
        names = [context.model_name, *self.models]
        result, rows, best = self.compared({name: partial(self._model, name, context) for name in names}, context.seed)
        write_rows(rows, context.folder / TEXTS_FILE)
        views = [table("Which model fits", _COLUMNS, [_row(name, fit) for name, fit in best.items()]), _told(best)]
        views += [note(f"Signature: {each['signature']}", "source") for each in result["models"].values()]
        headline = f"{result['best']} fits best"
        return Outcome({**result, "file": TEXTS_FILE}, views, headline=headline, records=TEXTS_FILE)

    def compared(
        self, models: Mapping[str, Callable[[], LanguageModel]], seed: int
    ) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, Fit]]:
        """Score the texts under one model after the other, and compare.

        Args:
            models: By name what gives the model.
            seed: Of the bootstrap.

        Returns:
            The numbers, a row for each text, and how well each model fits, the best first.
        """
        read, rows = self._read()
        if len(models) <= len(self.models):
            raise BadRequest(f"A model is named twice: {', '.join(models)}.", "Name each once.")
        scores, signatures = {}, {}
        for name, load_model in models.items():
            model = load_model()
            made = conditions(model, window=self.window, chat=self.chat)
            signatures[name] = signature("domain", {**made, "text": read.hash[:12], "texts": len(read)})
            scores[name] = score_texts(
                model,
                read.records,
                window=self.window,
                chat=self.chat,
                tokens_per_pass=self.tokens_per_pass,
                name=f"Scoring with {name}",
            )
            del model  # before the next one is loaded
        found = domains(scores, self.min_margin)
        best = fits(scores, found, seed)
        told = [_columns(each) for each in found]
        result = {
            "texts": len(found),
            "undecided": sum(each.best is None for each in found),
            "best": next(iter(best)),
            "models": {name: {**asdict(fit), "signature": signatures[name]} for name, fit in best.items()},
            "domains": told,
        }
        written = [{**as_row(record, row), **more} for record, row, more in zip(read.records, rows, told)]
        return result, written, best

    def _model(self, name: str, context: Context) -> LanguageModel:
        if name == context.model_name:
            return context.model
        if name in context.keys:
            return context.load(name)
        beside = context.model
        return load(name, device=beside.device, dtype=beside.network.dtype)


_COLUMNS = ["model", "bits per byte", "95 % interval", "texts it predicts best", "p against the best"]


def _row(name: str, fit: Fit) -> list[Any]:
    interval = show(list(fit.interval)) if fit.interval else "–"
    return [name, fit.bits_per_byte, interval, fit.texts, fit.p_value if fit.p_value is not None else "–"]


def _told(best: dict[str, Fit]) -> dict[str, Any]:
    (first, one), (second, other) = list(best.items())[:2]
    words = (
        f"{first} predicts these texts best: {one.bits_per_byte:.3f} bits per byte, {second} {other.bits_per_byte:.3f}"
    )
    if other.p_value is not None and other.p_value >= 0.05:
        return note(f"{words}, which may be chance.", "warning")
    return note(f"{words}.", "good")


def _columns(each: TextDomain) -> dict[str, Any]:
    return {
        "domain": each.best,
        "domain_margin": each.margin,
        "domain_probability": each.probability,
        "domain_bits_per_byte": each.bits_per_byte,
    }
