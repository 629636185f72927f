"""train: change a model by an objective on data, through an adapter or whole."""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar

from pydantic import Field

from posttrain.adapt import trainable_share
from posttrain.core import events, runtime
from posttrain.core.catalog import term_of
from posttrain.core.errors import BadRequest
from posttrain.data import dataset
from posttrain.models.language_model import LanguageModel
from posttrain.models.token_losses import token_losses
from posttrain.pipeline.steps import Context, Outcome
from posttrain.pipeline.steps._learning import TaskLearning, hashes, save_learned, told_if_unmergeable
from posttrain.pipeline.views import View, curve, facts, note
from posttrain.train.loop import TrainResult, evaluate, train
from posttrain.train.objectives import Objective


class Train(TaskLearning):
    """Fine-tune the current model."""

    reads: ClassVar[tuple[str, ...]] = ("data", "validation", "forgetting")

    forgetting: str | None = None
    """A general text whose loss before and after shows what was forgotten, for example builtin:prose."""

    forgetting_tokens: int = Field(1024, ge=2)
    """How much of the general text is read."""

    def inputs(self, context: Context) -> dict[str, Any]:
        """Hashes of all data."""
        return super().inputs(context) | hashes({"forgetting": self._general})

    @cached_property
    def _general(self) -> dataset.Dataset | None:
        return dataset.read(self.forgetting, kind="text") if self.forgetting else None

    def run(self, context: Context) -> Outcome:
        """Adapt, train, and measure what was gained and what was forgotten."""
        context = self._seeded(context)
        model = context.model
        if model.adapter is not None:
            raise BadRequest(
                f"{context.model_name} still carries an adapter.", "Put a `merge` step before training it further."
            )
        fresh = self._prepare(model)
        if self.forgetting and not model.is_causal:
            raise BadRequest(
                f"{type(model.network).__name__} predicts no text, so `forgetting` can't be measured on it.",
                "Leave `forgetting` out.",
            )
        limit = self.encoding.max_length or model.context_length
        items = self._encode(model, self._records, limit)
        judged = self._encode(model, self._validation, limit) if self._validation else []
        held_out = self._passes(judged, self.objective) if judged else None
        baseline = self.objective.baseline(judged) if judged else {}
        general = _general_tokens(model, self._general, self.forgetting_tokens) if self._general else None
        self.adapt.apply(model.network)
        trainable, share = trainable_share(model.network)
        told = told_if_unmergeable(model.network)
        before = self._numbers(model, held_out, general)
        loop = self._loop(len(items))
        events.message(
            f"Training {trainable:,} parameters ({share:.2%} of the model) on {len(items)} records, {loop.steps} steps."
        )
        batches = self._batches(items, self.objective, model, context.seed)
        regularized = self._regularized(model, batches, fresh, context.seed)
        result = train(
            model.network,
            regularized.objective,
            regularized.batches,
            loop,
            parts={term_of(self.adapt): self.adapt, **regularized.parts},
            evaluate=(lambda: self._evaluated(model, held_out)) if held_out else None,
            checkpoint=context.folder / "checkpoint",
        )
        after = self._numbers(model, held_out, general)
        if self.adapt.in_place:
            self.adapt.merge(model.network)
        else:
            model.adapter = self.adapt
        numbers = _result(result, trainable, share, before, after)
        numbers |= {f"baseline_{key}": value for key, value in baseline.items()}
        views = _views(result, numbers, self.objective, baseline) + self._term_curves(result) + told
        headline = _headline(numbers, self.objective, baseline)
        return Outcome(numbers, views, model, lambda folder: save_learned(model, folder), headline)

    def _numbers(
        self, model: LanguageModel, held_out: list[Any] | None, general: list[list[int]] | None
    ) -> dict[str, float]:
        numbers: dict[str, float] = {}
        if held_out:
            numbers |= {f"validation_{key}": value for key, value in self._evaluated(model, held_out).items()}
        if general:
            scored = token_losses(model.network, general, window=self.forgetting_tokens, stride=self.forgetting_tokens)
            numbers["general_loss"] = sum(float(part.sum()) for part in scored) / sum(part.size for part in scored)
        return numbers

    def _evaluated(self, model: LanguageModel, batches: list[Any]) -> dict[str, float]:
        return evaluate(model.network, self.objective, (batch.to(model.device) for batch in batches))


def _general_tokens(model: LanguageModel, records: dataset.Dataset, limit: int) -> list[list[int]]:
    text = "\n\n".join(getattr(record, "text", "") for record in records.records)
    ids = model.tokenizer(text, verbose=False)["input_ids"][:limit]
    if len(ids) < 2:
        raise BadRequest(f"{records.source} has no text to measure forgetting on.", "Give a plain text file.")
    return [ids]


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
