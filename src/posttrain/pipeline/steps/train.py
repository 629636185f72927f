"""train: change a model by an objective on data, through an adapter or whole."""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import Field

from posttrain.adapt import trainable_share
from posttrain.core import events, runtime
from posttrain.core.catalog import block
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
from posttrain.train.objectives import Encoding


class Train(Step, Training):
    """Fine-tune the current model."""

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
        self.objective.prepare(model, self._records)
        items = self._encode(model, self._records)
        held_out = self._batches(self._encode(model, self._validation)) if self._validation else None
        general = _general_tokens(model, self._general, self.forgetting_tokens) if self._general else None
        self.adapt.apply(model.network)
        trainable, share = trainable_share(model.network)
        before = self._numbers(model, held_out, general)
        loop = self._loop(len(items))
        batches = Batches(items, self.batch_size, self.tokens_per_pass, seed=context.seed, collate=self._collate(model))
        events.message(
            f"Training {trainable:,} parameters ({share:.2%} of the model) on {len(items)} records, {loop.steps} steps."
        )
        result = train(
            model.network,
            self.objective,
            batches,
            loop,
            adapter=self.adapt,
            evaluate=(lambda: evaluate(model.network, self.objective, held_out)) if held_out else None,
            checkpoint=context.folder / "checkpoint",
        )
        after = self._numbers(model, held_out, general)
        if self.adapt.in_place:
            self.adapt.merge(model.network)
        else:
            model.adapter = self.adapt
        numbers = _result(result, trainable, share, before, after)
        views = _views(result, numbers, self.validation)
        return Outcome(numbers, views, model, lambda folder: _save(model, folder), _headline(numbers))

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


def _headline(numbers: dict[str, Any]) -> str:
    if "validation_loss_before" in numbers:
        before, after = numbers["validation_loss_before"], numbers["validation_loss_after"]
        return f"held-out loss {before:.3g} → {after:.3g}"
    return f"training loss {numbers['first_loss']:.3g} → {numbers['loss']:.3g}"


def _views(result: TrainResult, numbers: dict[str, Any], validation: str | None) -> list[View]:
    losses = {"training": [(entry["step"], entry["loss"]) for entry in result.history]}
    if validation and result.evaluations:
        start = [(0.0, numbers["validation_loss_before"])]
        losses["held-out"] = start + [(entry["step"], entry["loss"]) for entry in result.evaluations]
    rates = {"learning rate": [(entry["step"], entry["learning_rate"]) for entry in result.history]}
    shown = {
        "trainable parameters": numbers["trainable_parameters"],
        "share of the model": numbers["trainable_share"],
        "tokens a second": numbers["tokens_per_second"],
        "peak memory (MB)": numbers["peak_memory_mb"],
    }
    views = [curve("Loss", "step", "nats a token", losses), curve("Learning rate", "step", "rate", rates)]
    for key, label in (("validation_loss", "held-out loss"), ("general_loss", "loss on general text")):
        if f"{key}_before" in numbers:
            shown[f"{label}, before"] = numbers[f"{key}_before"]
            shown[f"{label}, after"] = numbers[f"{key}_after"]
    views.append(facts("Training", shown))
    if "forgetting" in numbers:
        gained = numbers.get("validation_loss_before", 0) - numbers.get("validation_loss_after", 0)
        views.append(
            note(
                f"The loss on held-out questions fell by {gained:.3f} nats a token; the loss on general text "
                f"{'rose' if numbers['forgetting'] > 0 else 'fell'} by {abs(numbers['forgetting']):.3f} (forgetting).",
                "good" if gained > numbers["forgetting"] else "warning",
            )
        )
    return views
