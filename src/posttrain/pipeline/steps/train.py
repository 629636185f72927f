"""train: change a model by an objective on data, through an adapter or whole."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from posttrain.adapt import trainable_share
from posttrain.core import events, runtime
from posttrain.core.catalog import block, blocks, term_of
from posttrain.core.errors import BadRequest
from posttrain.data import dataset
from posttrain.data.collate import Batches
from posttrain.data.encoded import Encoded
from posttrain.measure.perplexity import token_nll
from posttrain.models import saving
from posttrain.models.language_model import LanguageModel
from posttrain.pipeline.steps import Context, Outcome, Step
from posttrain.pipeline.views import View, curve, facts, note
from posttrain.train.loop import Loop, Training, TrainResult, evaluate, train
from posttrain.train.objectives import Encoding, Objective
from posttrain.train.regularized import regularize
from posttrain.train.regularizers import Beginning


class Train(Step, Training):
    """Fine-tune the current model."""

    reads: ClassVar[tuple[str, ...]] = ("data", "validation", "forgetting")

    data: str
    """The training data: a file, hub:owner/name or builtin:NAME."""

    kind: str | None = None
    """Kind of records; found out from the columns when not given."""

    columns: dict[str, str] = {}
    """Maps the names posttrain uses (prompt, completion …) to the file's own."""

    split: str | None = None
    """Split of a hub data set."""

    limit: int | None = Field(None, ge=1)
    """Use only the first so many records."""

    validation: str | None = None
    """Held-out data of the same kind; its loss is measured before, during and after."""

    forgetting: str | None = None
    """A general text whose loss before and after shows what was forgotten, for example builtin:prose."""

    forgetting_tokens: int = Field(1024, ge=2)
    """How much of the general text is read."""

    adapt: block("adapt") = Field(default_factory=lambda: {"lora": {}})  # type: ignore[valid-type]
    """What is trained, as in {lora: {rank: 8}}."""

    objective: block("objective") = Field(default_factory=lambda: {"language_modeling": {}})  # type: ignore[valid-type]
    """The loss, as in {language_modeling: {}}."""

    regularizers: blocks("regularizer") = []  # type: ignore[valid-type]
    """What keeps the model from forgetting, as in {kl_to_base: {weight: 0.1}, replay: {data: builtin:prose}}."""

    encoding: Encoding = Encoding()
    """How records become tokens."""

    steps: int | None = Field(None, ge=1)
    """Optimizer steps; 100 when neither steps nor epochs are given."""

    epochs: float | None = Field(None, gt=0)
    """Passes over the data, instead of steps."""

    batch_size: int = Field(8, ge=1)
    """Records in one optimizer step."""

    tokens_per_pass: int = Field(512, ge=16)
    """Most tokens that go through the network at once; a batch is split to fit. Never changes the result."""

    learning_rate: float | None = Field(None, gt=0)
    """Base learning rate; when not given, one that suits the adapter."""

    def inputs(self, context: Context) -> dict[str, Any]:
        """Hashes of all data."""
        sets = {"data": self._records, "validation": self._validation, "forgetting": self._general}
        sets |= {f"regularizers[{i}]": each.reads() for i, each in enumerate(self.regularizers)}
        return {key: {"source": found.source, "hash": found.hash} for key, found in sets.items() if found is not None}

    @cached_property
    def _records(self) -> dataset.Dataset:
        return dataset.read(self.data, kind=self.kind, columns=self.columns, split=self.split, limit=self.limit)

    @cached_property
    def _validation(self) -> dataset.Dataset | None:
        return dataset.read(self.validation, kind=self.kind, columns=self.columns) if self.validation else None

    @cached_property
    def _general(self) -> dataset.Dataset | None:
        return dataset.read(self.forgetting, kind="text") if self.forgetting else None

    def run(self, context: Context) -> Outcome:
        """Adapt, train, and measure what was gained and what was forgotten."""
        model = context.model
        if model.adapter is not None:
            raise BadRequest(
                f"{context.model_name} still carries an adapter.", "Put a `merge` step before training it further."
            )
        known = set(model.network.parameters())
        self.objective.prepare(model, self._records)
        fresh = frozenset(name for name, parameter in model.network.named_parameters() if parameter not in known)
        if self.forgetting and not model.is_causal:
            raise BadRequest(
                f"{type(model.network).__name__} predicts no text, so `forgetting` can't be measured on it.",
                "Leave `forgetting` out.",
            )
        items = self._encode(model, self._records)
        judged = self._encode(model, self._validation) if self._validation else []
        held_out = self._batches(judged) if judged else None
        baseline = self.objective.baseline(judged) if judged else {}
        general = _general_tokens(model, self._general, self.forgetting_tokens) if self._general else None
        self.adapt.apply(model.network)
        trainable, share = trainable_share(model.network)
        before = self._numbers(model, held_out, general)
        loop = self._loop(len(items))
        batches = Batches(items, self.batch_size, self.tokens_per_pass, seed=context.seed, collate=self._collate(model))
        events.message(
            f"Training {trainable:,} parameters ({share:.2%} of the model) on {len(items)} records, {loop.steps} steps."
        )
        beginning = Beginning(
            model=model,
            objective=self.objective,
            base=lambda: self.adapt.disabled(model.network),
            fresh=fresh,
            batch_size=self.batch_size,
            tokens_per_pass=self.tokens_per_pass,
            seed=context.seed,
        )
        regularized = regularize(self.regularizers, batches, beginning)
        result = train(
            model.network,
            regularized.objective,
            regularized.batches,
            loop,
            parts={term_of(self.adapt): self.adapt, **regularized.parts},
            evaluate=(lambda: evaluate(model.network, self.objective, held_out)) if held_out else None,
            checkpoint=context.folder / "checkpoint",
        )
        after = self._numbers(model, held_out, general)
        if self.adapt.in_place:
            self.adapt.merge(model.network)
        else:
            model.adapter = self.adapt
        numbers = _result(result, trainable, share, before, after)
        numbers |= {f"baseline_{key}": value for key, value in baseline.items()}
        views = _views(result, numbers, self.objective, baseline) + _terms(result, regularized.parts)
        headline = _headline(numbers, self.objective, baseline)
        return Outcome(numbers, views, model, lambda folder: _save(model, folder), headline)

    def _encode(self, model: LanguageModel, records: dataset.Dataset) -> list[Encoded]:
        limit = self.encoding.max_length or model.context_length
        encoding = self.encoding.model_copy(update={"max_length": limit})
        items: list[Encoded] = self.objective.encode(records, model, encoding)
        return items

    def _collate(self, model: LanguageModel) -> Any:
        return lambda items: self.objective.collate(items).to(model.device)

    def _batches(self, items: list[Encoded]) -> list[Any]:
        """Validation items as micro-batches in their order."""
        groups = Batches(items, len(items), self.tokens_per_pass, shuffle=False, collate=self.objective.collate)
        return next(iter(groups))

    def _loop(self, rows: int) -> Loop:
        if self.steps and self.epochs:
            raise BadRequest("Both steps and epochs are given.", "Give one of them.")
        per_epoch = math.ceil(rows / self.batch_size)
        steps = self.steps or (max(1, round(self.epochs * per_epoch)) if self.epochs else 100)
        rate = self.learning_rate or self.adapt.default_learning_rate
        shared = {key: getattr(self, key) for key in Training.model_fields}
        if self.early_stopping:
            shared["early_stopping"] = self.early_stopping.told(self.objective.rising)
        return Loop(steps=steps, learning_rate=rate, **shared)

    def _numbers(
        self, model: LanguageModel, held_out: list[Any] | None, general: list[list[int]] | None
    ) -> dict[str, float]:
        numbers: dict[str, float] = {}
        if held_out:
            moved = [batch.to(model.device) for batch in held_out]
            numbers |= {f"validation_{k}": v for k, v in evaluate(model.network, self.objective, moved).items()}
        if general:
            scored = token_nll(model.network, general, self.forgetting_tokens, self.forgetting_tokens)
            numbers["general_loss"] = sum(float(part.sum()) for _, _, part in scored) / sum(
                part.size for _, _, part in scored
            )
        return numbers


def _general_tokens(model: LanguageModel, records: dataset.Dataset, limit: int) -> list[list[int]]:
    text = "\n\n".join(getattr(record, "text", "") for record in records.records)
    ids = model.tokenizer(text, verbose=False)["input_ids"][:limit]
    if len(ids) < 2:
        raise BadRequest(f"{records.source} has no text to measure forgetting on.", "Give a plain text file.")
    return [ids]


def _save(model: LanguageModel, folder: Path) -> None:
    if model.adapter is not None:
        model.adapter.save(model, folder)
    else:
        saving.write(model, folder)


def _result(
    result: TrainResult, trainable: int, share: float, before: dict[str, float], after: dict[str, float]
) -> dict[str, Any]:
    numbers: dict[str, Any] = {
        "loss": result.loss,
        "first_loss": result.history[0]["loss"],
        "steps": len(result.history),
        "stopped_early": result.stopped_early,
        "tokens": result.tokens,
        "seconds": result.seconds,
        "tokens_per_second": result.tokens_per_second,
        "peak_memory_mb": runtime.peak_memory_mb(),
        "device_memory_mb": runtime.device_memory_mb(),
        "trainable_parameters": trainable,
        "trainable_share": share,
        "history": result.history,
        "evaluations": result.evaluations,
    }
    for key, value in before.items():
        numbers[f"{key}_before"], numbers[f"{key}_after"] = value, after[key]
    if "general_loss" in before:
        # How much more surprised the model is by general text than it was, in nats a token.
        numbers["forgetting"] = after["general_loss"] - before["general_loss"]
    return numbers


def _headline(numbers: dict[str, Any], objective: Objective, baseline: dict[str, float]) -> str:
    if "validation_loss_before" in numbers:
        key = next(iter(baseline), "loss")
        before, after = numbers[f"validation_{key}_before"], numbers[f"validation_{key}_after"]
        beside = f" ({objective.baseline_name(key)} baseline {baseline[key]:.3g})" if baseline else ""
        return f"held-out {_label(key)} {before:.3g} → {after:.3g}{beside}"
    return f"training loss {numbers['first_loss']:.3g} → {numbers['loss']:.3g}"


def _terms(result: TrainResult, terms: Iterable[str]) -> list[View]:
    """A curve of each regularizer's numbers in the history."""
    series = {
        key: [(entry["step"], entry[key]) for entry in result.history]
        for name in terms
        for key in (name, f"{name}_loss")
        if key in result.history[0]
    }
    return [curve(key.replace("_", " ").capitalize(), "step", "value", {key: points}) for key, points in series.items()]


def _label(metric: str) -> str:
    return metric.replace("_", " ")


def _held_out(result: TrainResult, numbers: dict[str, Any], metric: str) -> list[tuple[float, float]]:
    """A validation number before training and at each evaluation."""
    start = [(0.0, numbers[f"validation_{metric}_before"])]
    return start + [(entry["step"], entry[metric]) for entry in result.evaluations]


def _judged(
    result: TrainResult, numbers: dict[str, Any], objective: Objective, baseline: dict[str, float]
) -> list[View]:
    """The metrics that have a baseline: a curve of the first, and all of them beside it."""
    if not baseline or not result.evaluations:
        return []
    key, value = next(iter(baseline.items()))
    name = f"{objective.baseline_name(key)} baseline"
    last = float(result.evaluations[-1]["step"])
    series = {"held-out": _held_out(result, numbers, key), name: [(0.0, value), (last, value)]}
    shown = {}
    for each, constant in baseline.items():
        for moment in ("before", "after"):
            shown[f"{_label(each)}, {moment}"] = numbers[f"validation_{each}_{moment}"]
        shown[f"{_label(each)}, {objective.baseline_name(each)} baseline"] = constant
    title = f"Held-out {_label(key)}"
    return [curve(title, "step", _label(key), series), facts("Held-out data", shown)]


def _views(
    result: TrainResult, numbers: dict[str, Any], objective: Objective, baseline: dict[str, float]
) -> list[View]:
    losses = {"training": [(entry["step"], entry["loss"]) for entry in result.history]}
    if "validation_loss_before" in numbers and result.evaluations:
        losses["held-out"] = _held_out(result, numbers, "loss")
    rates = {"learning rate": [(entry["step"], entry["learning_rate"]) for entry in result.history]}
    shown = {
        "trainable parameters": numbers["trainable_parameters"],
        "share of the model": numbers["trainable_share"],
        "tokens a second": numbers["tokens_per_second"],
        "peak memory (MB)": numbers["peak_memory_mb"],
    }
    views = [curve("Loss", "step", objective.unit, losses), curve("Learning rate", "step", "rate", rates)]
    views = _judged(result, numbers, objective, baseline) + views
    for key, label in (("validation_loss", "held-out loss"), ("general_loss", "loss on general text")):
        if f"{key}_before" in numbers:
            shown[f"{label}, before"] = numbers[f"{key}_before"]
            shown[f"{label}, after"] = numbers[f"{key}_after"]
    views.append(facts("Training", shown))
    if "forgetting" in numbers:
        gained = numbers.get("validation_loss_before", 0) - numbers.get("validation_loss_after", 0)
        views.append(
            note(
                f"The loss on held-out questions fell by {gained:.3f} {objective.unit}; the loss on general text "
                f"{'rose' if numbers['forgetting'] > 0 else 'fell'} by {abs(numbers['forgetting']):.3f} (forgetting).",
                "good" if gained > numbers["forgetting"] else "warning",
            )
        )
    return views
