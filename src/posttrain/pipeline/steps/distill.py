"""distill: train a smaller model with the help of a larger one, beside the same student without a teacher."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from posttrain.adapt import trainable_share
from posttrain.core import events, files, runtime
from posttrain.core.catalog import block, blocks, build, term_of
from posttrain.core.errors import BadRequest
from posttrain.data import dataset
from posttrain.data.encoded import Encoded
from posttrain.distill.distillation import Distillation
from posttrain.distill.student import build as build_student
from posttrain.models import saving
from posttrain.models.language_model import LanguageModel
from posttrain.models.sources import load
from posttrain.pipeline.speed import pass_tokens_per_second, tokens_per_second
from posttrain.pipeline.steps import Context, Outcome
from posttrain.pipeline.steps._learning import TaskLearning, part_held_out, quantized_beneath, stamp
from posttrain.pipeline.views import View, curve, note, scatter, table
from posttrain.train.loop import TrainResult, evaluate, train

# Speed is the best of so many rounds, for a model that only reads each over at most so many passes.
_ROUNDS, _PASSES = 3, 16


class Distill(TaskLearning):
    """Train a student from a teacher, and the same student without one for comparison."""

    student: str
    """The student: layers:15 (or half, 0,2,5, first:4, last:4, ends:4), a configuration file, or a model."""

    teacher: str | list[str] | None = None
    """The teacher, or several: names of earlier steps or references; by default the current model."""

    teachers: block("teachers") = None  # type: ignore[valid-type]
    """How they teach; by default single for one and multi for several."""

    losses: blocks("losses") = Field(default_factory=lambda: [{"response": {}}])  # type: ignore[valid-type]
    """What is taught, as in [{response: {temperature: 2}}, {feature: {weight: 0.1}}]."""

    baseline: bool = True
    """Also train the same student without a teacher, for as many steps on the same data."""

    validation: str | None = None
    """Data of the same kind on which all models are measured; when not given, some of the data are held out."""

    held_out: float = Field(0.1, ge=0, lt=1)
    """Share of the data that is held out where no validation is given."""

    adapt: block("adapt") = Field(default_factory=lambda: {"full": {}})  # type: ignore[valid-type]
    """What of the student is trained; what an adapter learned is merged into it."""

    def inputs(self, context: Context) -> dict[str, Any]:
        """Hashes of data, teachers and student."""
        found = {"student": stamp(self.student, context)}
        found |= {f"teacher_{number}": stamp(name, context) for number, name in enumerate(self.teacher_names)}
        return found | super().inputs(context)

    @property
    def teacher_names(self) -> list[str]:
        """Names or references of the teachers; none for the current model."""
        return [self.teacher] if isinstance(self.teacher, str) else list(self.teacher or [])

    def run(self, context: Context) -> Outcome:
        """Train the student with and without the teachers, and measure all of them."""
        if not self.adapt.mergeable:
            raise BadRequest(
                "What this adapter learns can't be merged into the student.", "Choose another one, for example full."
            )
        work = _Work(self, self._seeded(context))
        student, taught = work.train("student", work.distillation)
        models, results = {"teacher": work.teachers[0], "student": student}, {"student": taught}
        if self.baseline:
            models["baseline"], results["baseline"] = work.train("baseline")
        measured = work.measure(models)
        numbers = self._numbers(measured, results, work.metric) | {"measured_on": work.measured_on}
        views = self._views(measured, results, numbers)
        return Outcome(numbers, views, student, lambda folder: saving.write(student, folder), _headline(numbers))

    def _numbers(
        self, measured: dict[str, dict[str, float]], results: dict[str, TrainResult], metric: str
    ) -> dict[str, Any]:
        teacher, student, trained = measured["teacher"], measured["student"], results["student"]
        better, worse = (student, teacher) if metric in self.objective.rising else (teacher, student)
        gained = {"gained_loss": measured["baseline"]["loss"] - student["loss"]} if "baseline" in measured else {}
        return {
            **measured,
            "metric": metric,
            # Share of the teacher's quality that the student has: 1 is all of it.
            "retained": better[metric] / worse[metric] if worse[metric] else None,
            "size_ratio": teacher["bytes"] / student["bytes"],
            "speed_ratio": student["tokens_per_second"] / teacher["tokens_per_second"],
            **gained,
            "steps": len(trained.history),
            "stopped_early": trained.stopped_early,
            "tokens": trained.tokens,
            "seconds": sum(result.seconds for result in results.values()),
            "training_tokens_per_second": trained.tokens_per_second,
            "peak_memory_mb": runtime.peak_memory_mb(),
            "device_memory_mb": runtime.device_memory_mb(),
            "history": {name: result.history for name, result in results.items()},
            "evaluations": {name: result.evaluations for name, result in results.items()},
        }

    def _views(
        self, measured: dict[str, dict[str, float]], results: dict[str, TrainResult], numbers: dict[str, Any]
    ) -> list[View]:
        told, where = {"student": "with teacher", "baseline": "without"}, numbers["measured_on"]
        learned = {
            told[name]: [(entry["step"], entry.get("task_loss", entry["loss"])) for entry in result.history]
            for name, result in results.items()
        }
        views = [curve("Loss of the task", "step", self.objective.unit, learned)]
        judged = {
            told[name]: [(entry["step"], entry["loss"]) for entry in result.evaluations]
            for name, result in results.items()
            if len(result.evaluations) > 1
        }
        if judged:
            views.append(curve(f"Loss on the {where}", "step", self.objective.unit, judged))
        views += self._term_curves(results["student"])
        columns = list(measured["teacher"])
        rows = [[name, *(values[key] for key in columns)] for name, values in measured.items()]
        views.append(table("Quality, size and speed", ["", *(key.replace("_", " ") for key in columns)], rows))
        metric = numbers["metric"]
        points = {name: (values["tokens_per_second"], values[metric]) for name, values in measured.items()}
        views.append(scatter("Quality against speed", "tokens a second", metric.replace("_", " "), points))
        if "gained_loss" in numbers:
            gained = numbers["gained_loss"]
            text = f"With the teacher, the student's loss on the {where} is {abs(gained):.3g} "
            text += "lower than without." if gained > 0 else "higher than without."
            views.append(note(text, "good" if gained > 0 else "warning"))
        return views


class _Work:
    """The teachers, the data, and a new student as often as one is wanted."""

    def __init__(self, step: Distill, context: Context) -> None:
        self.step, self.context, self.objective = step, context, step.objective
        self.teachers: list[LanguageModel] = []
        for name in step.teacher_names:
            self.teachers.append(self._prepared(self._load(name)))
        if not self.teachers:
            self.teachers.append(self._prepared(context.model))
        method = step.teachers or build("teachers", "single" if len(self.teachers) == 1 else "multi")
        self.distillation = Distillation(task=self.objective, losses=step.losses, teacher=method, models=self.teachers)
        self.items, held, self.measured_on = self._parts(self._student())
        self.held_out = step._passes(held, self.objective)
        # What the task is judged by; for a language model that isn't its loss but what people know better.
        self.metric = next(iter(self.objective.baseline(held)), "perplexity" if self.teachers[0].is_causal else "loss")

    def _load(self, name: str) -> LanguageModel:
        """A model by the name of an earlier step or by reference; lies where the others lie."""
        if name in self.context.keys:
            return self.context.load(name)
        beside = self.teachers[0] if self.teachers else self.context.model
        return load(name, device=beside.device, dtype=beside.network.dtype)

    def _prepared(self, teacher: LanguageModel) -> LanguageModel:
        """A teacher, which must have learned the task already."""
        before = type(teacher.network)
        self.objective.prepare(teacher, self.step._records)
        if type(teacher.network) is not before:
            raise BadRequest(
                f"{teacher.reference} has not learned this task: it was a {before.__name__}.",
                "Train the teacher on it first.",
            )
        return teacher

    def _student(self) -> LanguageModel:
        """The student before training, each time the same."""
        runtime.seed_everything(self.context.seed)
        student = build_student(self.step.student, self.teachers[0], self._load)
        if student.adapter is not None:
            raise BadRequest(f"{student.reference} carries an adapter.", "Merge it before making it a student.")
        self.fresh = self.step._prepare(student)
        return student

    def _encode(self, student: LanguageModel, records: dataset.Dataset) -> list[Encoded]:
        """Records as sequences that fit all networks."""
        wanted = [self.step.encoding.max_length] if self.step.encoding.max_length else []
        limits = [*wanted, *(m.context_length for m in (student, *self.teachers) if m.context_length)]
        return self.step._encode(student, records, min(limits, default=None))

    def _parts(self, student: LanguageModel) -> tuple[list[Encoded], list[Encoded], str]:
        """Sequences to learn from and to measure on, and what the latter are."""
        items = self._encode(student, self.step._records)
        if self.step._validation is not None:
            return items, self._encode(student, self.step._validation), "validation data"
        parts = part_held_out(len(items), self.step.held_out, self.context.seed)
        learned, held = ([items[i] for i in part] for part in parts)
        if not held:
            return items, items, "training data"
        return learned, held, "held-out part of the data"

    def train(self, name: str, distillation: Distillation | None = None) -> tuple[LanguageModel, TrainResult]:
        """A new student that has learned the task; taken from the checkpoint if that has been done.

        Args:
            name: What its checkpoint is called.
            distillation: The task with teachers; None learns it alone.
        """
        folder = self.context.folder / "checkpoint" / name
        student, adapter = self._student(), self.step.adapt
        adapter.apply(student.network)
        if quantized_beneath(student.network):
            raise BadRequest(
                f"The student {student.reference} is quantized, so what an adapter learns can't be merged into it.",
                "Take the model as it was before, and quantize the student when it has learned.",
            )
        finished = files.load_checkpoint(folder / "finished")
        if finished is not None:
            tensors, state = finished
            adapter.merge(student.network)
            with torch.no_grad():
                for key, parameter in student.network.named_parameters():
                    parameter.copy_(tensors[key])
            return student, TrainResult(**state)
        result = self._trained(name, student, distillation, folder)
        adapter.merge(student.network)
        if self.step.baseline:  # so that an interruption of what follows doesn't cost this training
            files.save_checkpoint(folder / "finished", dict(student.network.named_parameters()), asdict(result))
        return student, result

    def _trained(
        self, name: str, student: LanguageModel, distillation: Distillation | None, checkpoint: Path
    ) -> TrainResult:
        """Run the one loop; what distillation adds to the network is there only meanwhile."""
        step, network, seed = self.step, student.network, self.context.seed
        loop = step._loop(len(self.items))
        batches = step._batches(self.items, self.objective, student, seed)
        # Before anything is added: a penalty on parameters is about the student's own.
        together = step._regularized(student, batches, self.fresh, seed, distillation)
        if distillation is not None:
            distillation.attach(student)
        trainable, share = trainable_share(network)
        events.message(
            f"Training the {name}: {trainable:,} parameters ({share:.2%}), {len(self.items)} sequences, "
            f"{loop.steps} steps."
        )
        result = train(
            network,
            together.objective,
            together.batches,
            loop,
            parts={term_of(step.adapt): step.adapt, **together.parts},
            evaluate=lambda: self._judge(student),
            checkpoint=checkpoint,
            name=f"Distill: {name}",
        )
        if distillation is not None:
            distillation.detach(network)
        return result

    def _judge(self, model: LanguageModel) -> dict[str, float]:
        """Loss and metrics of the task on the data that is measured on."""
        batches = (batch.to(model.device) for batch in self.held_out)
        numbers = evaluate(model.network, self.objective, batches)
        if model.is_causal:
            numbers["perplexity"] = math.exp(min(numbers["loss"], 700.0))
        return numbers

    def measure(self, models: Mapping[str, LanguageModel]) -> dict[str, dict[str, float]]:
        """Quality, size and speed of each; speeds are taken in turn, so that none gets all of a quiet moment."""
        measured: dict[str, dict[str, float]] = {}
        for name, model in models.items():
            size = {"parameters": model.parameter_count(), "bytes": model.nbytes(), "tokens_per_second": 0.0}
            measured[name] = {**self._judge(model), **size}
        for _ in range(_ROUNDS):
            for name, model in models.items():
                measured[name]["tokens_per_second"] = max(measured[name]["tokens_per_second"], self._speed(model))
        return measured

    def _speed(self, model: LanguageModel) -> float:
        if model.is_causal:
            return tokens_per_second(model, repeats=1)
        batches = [batch.to(model.device) for batch in self.held_out[:_PASSES]]
        return pass_tokens_per_second(lambda batch: self.objective.predict(model.network, batch), batches, repeats=1)


def _headline(numbers: dict[str, Any]) -> str:
    metric, student, teacher = numbers["metric"], numbers["student"], numbers["teacher"]
    told = f"{metric.replace('_', ' ')} {student[metric]:.3g} (teacher {teacher[metric]:.3g}"
    told += f", without it {numbers['baseline'][metric]:.3g})" if "baseline" in numbers else ")"
    return f"{told}, {numbers['size_ratio']:.2f} × smaller, {numbers['speed_ratio']:.2f} × the speed"
