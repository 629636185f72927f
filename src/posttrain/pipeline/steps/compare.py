"""compare: the current model beside earlier ones, in quality, bytes, speed and words."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from posttrain.core import catalog
from posttrain.core.errors import BadRequest
from posttrain.core.settings import fingerprint
from posttrain.decode.generation import generate
from posttrain.measure import Measurement, ModelMetric, signature_differences
from posttrain.models.language_model import LanguageModel
from posttrain.pipeline.quantities import is_number, label, show
from posttrain.pipeline.speed import tokens_per_second
from posttrain.pipeline.steps import Context, Outcome, Step
from posttrain.pipeline.steps.generate import read_prompts
from posttrain.pipeline.views import View, note, samples, scatter, table


class Compare(Step):
    """Put models side by side."""

    with_: str | list[str] = Field("base", alias="with")
    """Names of the steps whose models to compare with; `base` is the recipe's own."""

    on: list[str | dict[str, Any]] = Field(["perplexity", "size", "speed", "samples"], min_length=1)
    """What to compare: size, speed, samples, and metrics by name or as blocks."""

    prompts: list[str] | str = "builtin:prompts"
    """Prompts of the samples."""

    limit: int | None = Field(8, ge=1)
    """Answer only the first so many prompts; null answers all."""

    chat: bool | None = None
    """Ask the prompts through the chat template; by default the models that have one."""

    max_new_tokens: int = Field(48, ge=1)
    """Length of the samples."""

    sampling: catalog.block("search") = Field(  # type: ignore[valid-type]
        default_factory=lambda: {"sampling": {"temperature": 0.7, "top_p": 0.9}}
    )
    """How the sampled texts are drawn, beside the greedy ones; null leaves them out."""

    def inputs(self, context: Context) -> dict[str, Any]:
        """Keys of the models compared with, and hashes of what metrics and search read and of the prompts."""
        found: dict[str, Any] = {"with": {name: context.keys.get(name) for name in self._names()}}
        for metric in self._metrics():
            found |= metric.inputs()
        if self._wants("samples"):  # prompts that can't be read are refused before anything is measured
            found["prompts"] = fingerprint(read_prompts(self.prompts)[: self.limit])
            if self.sampling is not None and (inside := self.sampling.inputs()):
                found["search"] = inside
        return found

    def others(self) -> list[str]:
        """See `Step.others`."""
        return self._names()

    def _names(self) -> list[str]:
        return [self.with_] if isinstance(self.with_, str) else list(self.with_)

    def _wants(self, what: str) -> bool:
        return what in self.on

    def _metrics(self) -> list[ModelMetric]:
        own = ("size", "speed", "samples")
        metrics = [catalog.build("measure", item, "compare.on") for item in self.on if item not in own]
        for metric in metrics:
            if not isinstance(metric, ModelMetric):
                raise BadRequest(f"compare.on: {catalog.term_of(metric)} doesn't measure a model.")
        return metrics

    def run(self, context: Context) -> Outcome:
        """Measure every model the same way, one after the other."""
        rows: dict[str, dict[str, Any]] = {}
        measured: dict[str, list[Measurement]] = {}
        texts: dict[str, list[list[str]]] = {}
        plain: list[str] = []
        for name in [*self._names(), context.model_name]:
            model = context.model if name == context.model_name else context.load(name)
            measured[name] = [metric.measure(model) for metric in self._metrics()]
            rows[name] = self._row(model, measured[name])
            if self._wants("samples"):
                texts[name] = self._samples(model, context.seed)
                plain += [] if self._chats(model) else [name]
        differing = _differing(measured)
        if any("tokenizer" in names for names in differing.values()):
            _add_bits_per_byte(rows, measured)
        signatures = {name: {each.name: each.signature for each in found} for name, found in measured.items()}
        result: dict[str, Any] = {"models": rows, "measured_differently": differing, "signatures": signatures}
        views = [_told(rows), *_views(rows)]
        views += [note(f"Signature: {each}", "source") for each in signatures[context.model_name].values()]
        for metric, names in differing.items():
            words = f"The models' {metric.replace('_', ' ')} was measured differently ({', '.join(names)})"
            views.append(note(f"{words}: these values can't be compared. Bits per byte of a text can.", "warning"))
        if plain and len(plain) < len(texts):
            result["asked_without_chat_template"] = plain
            told = (
                f"{', '.join(plain)} got the prompts as plain text, for want of a chat template; the others in theirs."
            )
            views.append(note(told, "warning"))
        if texts:
            prompts = read_prompts(self.prompts)[: self.limit]
            for kind, title in enumerate(["Greedy answers", "Sampled answers"][: len(next(iter(texts.values())))]):
                shown = [[p, *(texts[n][kind][i] for n in texts)] for i, p in enumerate(prompts)]
                views.append(samples(title, ["prompt", *texts], shown))
                result[title.lower().replace(" ", "_")] = [dict(zip(["prompt", *texts], row)) for row in shown]
        return Outcome(result, views, headline=f"{len(rows)} models side by side")

    def _row(self, model: LanguageModel, measured: list[Measurement]) -> dict[str, Any]:
        row: dict[str, Any] = {}
        for found in measured:
            row[found.name] = found.value
            row[f"{found.name}_interval"] = list(found.interval) if found.interval else None
        if self._wants("size"):
            row["bytes"] = model.nbytes()
        if self._wants("speed"):
            row["tokens_per_second"] = tokens_per_second(model)
        return row

    def _chats(self, model: LanguageModel) -> bool:
        """Whether a model is asked through its chat template."""
        return bool(model.tokenizer.chat_template) if self.chat is None else self.chat

    def _samples(self, model: LanguageModel, seed: int) -> list[list[str]]:
        searches = [catalog.build("search", "greedy")] + ([self.sampling] if self.sampling else [])
        prompts = read_prompts(self.prompts)[: self.limit]
        return [
            [
                g.text
                for g in generate(
                    model,
                    prompts,
                    search=search,
                    max_new_tokens=self.max_new_tokens,
                    seed=seed,
                    chat=self._chats(model),
                ).generations
            ]
            for search in searches
        ]


def _differing(measured: dict[str, list[Measurement]]) -> dict[str, list[str]]:
    """By metric what its measurements of the models differ in, beside the model; nothing where they don't."""
    found: dict[str, list[str]] = {}
    first, *others = measured.values()
    for other in others:
        for one, another in zip(first, other):
            if names := signature_differences(one.signature, another.signature):
                found[one.name] = list(dict.fromkeys([*found.get(one.name, []), *names]))
    return found


def _add_bits_per_byte(rows: dict[str, dict[str, Any]], measured: dict[str, list[Measurement]]) -> None:
    """Beside metrics whose value depends on the tokenizer, the figure that doesn't."""
    for name, found in measured.items():
        for each in found:
            if each.parts.get("bits_per_byte") is not None:
                rows[name].setdefault("bits_per_byte", each.parts["bits_per_byte"])


def _told(rows: dict[str, dict[str, Any]]) -> View:
    """The last model beside the first, figure by figure."""
    (first, before), *_, (last, after) = rows.items() if len(rows) > 1 else [*rows.items()] * 2
    changes = [
        f"{label(key)} {show(before[key], key)} → {show(after[key], key)}"
        for key in before
        if is_number(before[key]) and is_number(after.get(key))
    ]
    return note(f"From {first} to {last}: {', '.join(changes)}." if changes else f"{len(rows)} models answered.")


def _views(rows: dict[str, dict[str, Any]]) -> list[View]:
    columns = [key for key in next(iter(rows.values())) if not key.endswith("_interval")]
    labels = {"tokens_per_second": "new tokens a second"}
    shown = [[name, *(row[key] for key in columns)] for name, row in rows.items()]
    views = [table("Side by side", ["model", *(labels.get(c, c) for c in columns)], shown)]
    if "perplexity" in columns and "bytes" in columns:
        points = {name: (row["bytes"] / 1e6, row["perplexity"]) for name, row in rows.items()}
        views.append(scatter("Quality against size", "size (MB)", "perplexity (lower is better)", points))
    if "perplexity" in columns and "tokens_per_second" in columns:
        points = {name: (row["tokens_per_second"], row["perplexity"]) for name, row in rows.items()}
        views.append(scatter("Quality against speed", "new tokens a second", "perplexity (lower is better)", points))
    return views
