"""What the steps that train have in common: where the data lie, what is trained and for how long, and what is said.

`Learning` holds the settings of them all; `TaskLearning` those of the steps that learn a task of the family `objective`
from data of its own kind. Neither is a step. Left out: what is measured, which is each step's own business.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field
from torch import nn

from posttrain.adapt import adapter_layers
from posttrain.core import events, files, runtime
from posttrain.core.catalog import block, blocks
from posttrain.core.errors import BadRequest
from posttrain.data import dataset
from posttrain.data.collate import Batches
from posttrain.data.encoded import Encoded
from posttrain.models import saving
from posttrain.models.language_model import LanguageModel
from posttrain.pipeline.steps import Context, Step
from posttrain.pipeline.views import View, curve, note
from posttrain.train.loop import Loop, Training, TrainResult
from posttrain.train.objectives import Encoding, Objective
from posttrain.train.regularized import Regularized, named, regularize
from posttrain.train.regularizers import Beginning

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Learning(Step, Training):
    """A step that trains."""

    reads: ClassVar[tuple[str, ...]] = ("data", "validation")

    columns: dict[str, str] = {}
    """Maps the names posttrain uses (prompt, completion, chosen …) to the file's own."""

    limit: int | None = Field(None, ge=1)
    """Use only the first so many records."""

    validation: str | None = None
    """Held-out data of the same kind; its loss is measured before, during and after."""

    adapt: block("adapt") = Field(default_factory=lambda: {"lora": {}})  # type: ignore[valid-type]
    """What is trained, as in {lora: {rank: 8}}."""

    encoding: Encoding = Encoding()
    """How records become tokens."""

    steps: int | None = Field(None, ge=1)
    """Optimizer steps."""

    batch_size: int = Field(8, ge=1)
    """Records in one optimizer step; pairs or sampled answers where these are learned from."""

    tokens_per_pass: int = Field(512, ge=16)
    """Most tokens that go through the network at once; a batch is split to fit, which doesn't change its loss."""

    learning_rate: float | None = Field(None, gt=0)
    """Base learning rate; when not given, one that suits the adapter."""

    seed: int | None = Field(None, ge=0)
    """Seed of this step alone, as for the members of an ensemble; the recipe's when not given."""

    def _seeded(self, context: Context) -> Context:
        """The context with the step's own seed, with which all random generators begin, if it has one."""
        if self.seed is None:
            return context
        runtime.seed_everything(self.seed)
        return replace(context, seed=self.seed)

    def _settings_of_loop(self, steps: int, rising: frozenset[str] = frozenset()) -> Loop:
        """What the loop is told.

        Args:
            steps: Optimizer steps.
            rising: The validation numbers of which more is better.
        """
        shared = {key: getattr(self, key) for key in Training.model_fields}
        if self.early_stopping:
            shared["early_stopping"] = self.early_stopping.told(rising)
        rate = self.learning_rate or self.adapt.default_learning_rate
        return Loop(steps=steps, learning_rate=rate, **shared)

    def _batches(self, items: Sequence[Encoded], objective: Objective, model: LanguageModel, seed: int) -> Batches[Any]:
        """Batches to learn from, on the model's device."""

        def collate(part: Sequence[Encoded]) -> Any:
            return objective.collate(part).to(model.device)

        return Batches(items, self.batch_size, self.tokens_per_pass, seed=seed, collate=collate)

    def _passes(self, items: Sequence[Encoded], objective: Objective) -> list[Any]:
        """All items in their order, as passes to measure on."""
        groups: Batches[Any] = Batches(
            items, len(items), self.tokens_per_pass, shuffle=False, collate=objective.collate
        )
        return next(iter(groups))


class TaskLearning(Learning):
    """A step that learns a task from data."""

    data: str
    """What is learned from: a file, hub:owner/name, builtin:NAME, or the name of an earlier step that left records."""

    kind: str | None = None
    """Kind of records; found out from the columns when not given."""

    split: str | None = None
    """Split of a hub data set."""

    objective: block("objective") = Field(default_factory=lambda: {"language_modeling": {}})  # type: ignore[valid-type]
    """The task and its loss, as in {language_modeling: {}}."""

    regularizers: blocks("regularizer") = []  # type: ignore[valid-type]
    """What keeps the model from forgetting, as in {kl_to_base: {weight: 0.1}, replay: {data: builtin:prose}}."""

    steps: int | None = Field(None, ge=1)
    """Optimizer steps; 100 when neither steps nor epochs are given."""

    epochs: float | None = Field(None, gt=0)
    """Passes over the data, instead of steps."""

    @cached_property
    def _records(self) -> dataset.Dataset:
        return dataset.read(self.data, kind=self.kind, columns=self.columns, split=self.split, limit=self.limit)

    @cached_property
    def _validation(self) -> dataset.Dataset | None:
        return dataset.read(self.validation, kind=self.kind, columns=self.columns) if self.validation else None

    def inputs(self, context: Context) -> dict[str, Any]:
        """Hashes of all data."""
        sets = {"data": self._records, "validation": self._validation}
        sets |= {f"regularizers[{i}]": each.further_data() for i, each in enumerate(self.regularizers)}
        return hashes(sets)

    def _prepare(self, model: LanguageModel) -> frozenset[str]:
        """Give the network what the task needs; returns the names of the parameters that are new."""
        known = set(model.network.parameters())
        self.objective.prepare(model, self._records)
        return frozenset(name for name, parameter in model.network.named_parameters() if parameter not in known)

    def _encode(self, model: LanguageModel, records: dataset.Dataset, limit: int | None) -> list[Encoded]:
        """Records as sequences of at most `limit` tokens."""
        encoding = self.encoding.model_copy(update={"max_length": limit})
        items: list[Encoded] = self.objective.encode(records, model, encoding)
        return items

    def _loop(self, rows: int) -> Loop:
        """What the loop is told about a training on so many records."""
        if self.steps and self.epochs:
            raise BadRequest("Both steps and epochs are given.", "Give one of them.")
        per_epoch = math.ceil(rows / self.batch_size)
        steps = self.steps or (max(1, round(self.epochs * per_epoch)) if self.epochs else 100)
        return self._settings_of_loop(steps, self.objective.rising)

    def _regularized(
        self,
        model: LanguageModel,
        batches: Batches[Any],
        fresh: frozenset[str],
        seed: int,
        objective: Objective | None = None,
    ) -> Regularized:
        """Task and regularizers together, for a network that carries its adapter.

        Args:
            model: What is trained.
            batches: The task's.
            fresh: See `_prepare`.
            seed: Of the order of further data.
            objective: What is learned where that is more than the task.
        """
        beginning = Beginning(
            model=model,
            objective=self.objective,
            base=lambda: self.adapt.disabled(model.network),
            fresh=fresh,
            batch_size=self.batch_size,
            tokens_per_pass=self.tokens_per_pass,
            seed=seed,
        )
        return regularize(self.regularizers, batches, beginning, objective)

    def _term_curves(self, result: TrainResult) -> list[View]:
        """A curve of each regularizer's numbers in the history."""
        series = {
            key: [(entry["step"], entry[key]) for entry in result.history]
            for name, _ in named(self.regularizers)
            for key in (name, f"{name}_loss")
            if key in result.history[0]
        }
        return [
            curve(key.replace("_", " ").capitalize(), "step", "value", {key: points}) for key, points in series.items()
        ]


def hashes(sets: Mapping[str, dataset.Dataset | None]) -> dict[str, Any]:
    """What tells whether data sets have changed, for those that are there."""
    return {key: {"source": found.source, "hash": found.hash} for key, found in sets.items() if found is not None}


def stamp(name: str, context: Context) -> str:
    """What tells whether a model has changed: an earlier step's key, a hash of local files, or the reference itself."""
    if name in context.keys:
        return context.keys[name]
    path = Path(name)
    if path.is_dir():
        return files.hash_folder(path)
    return files.hash_file(path) if path.is_file() else name


def part_held_out(count: int, share: float, seed: int) -> tuple[list[int], list[int]]:
    """Which of `count` records are learned from and which are held out, each in their order.

    Args:
        count: Records.
        share: Of those that are held out; where it isn't 0, at least one of several is.
        seed: Of the choice.
    """
    held = round(share * count) or int(share > 0 and count > 1)
    order = list(range(count))
    random.Random(seed).shuffle(order)
    return sorted(order[held:]), sorted(order[:held])


def quantized_beneath(network: PreTrainedModel) -> list[str]:
    """Modules whose matrix an adapter changes although it is quantized: nothing can be merged into it."""
    return [
        name
        for name, layer in adapter_layers(network).items()
        if hasattr(layer, "effective_weight") and not _takes_updates(layer.base)
    ]


def _takes_updates(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, nn.Parameter) and weight.dtype.is_floating_point


def told_if_unmergeable(network: PreTrainedModel) -> list[View]:
    """A note for the reader, who also sees it now, where what is learned will have to stay beside a quantized base."""
    if not quantized_beneath(network):
        return []
    text = (
        "The base is quantized, so the adapter stays beside it and can't be merged. For a model without an adapter, "
        "train on the base as it was before, merge, and quantize then."
    )
    events.message(text, level="warning")
    return [note(text, "warning")]


def save_learned(model: LanguageModel, folder: Path) -> None:
    """Write the adapter alone where the model carries one, else the whole model."""
    if model.adapter is not None:
        model.adapter.save(model, folder)
    else:
        saving.write(model, folder)
