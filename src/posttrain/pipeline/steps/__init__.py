"""The contract of a recipe step: settings in, an outcome out.

Each file of this folder is one recipe key. A step receives the model the last one left, works in a folder of its own,
and returns numbers, views for the report and perhaps a new model. Order, caching, resuming and reporting are not its
business.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import Field, field_validator

from posttrain.core.settings import Settings
from posttrain.models.language_model import LanguageModel
from posttrain.pipeline.views import View

# File systems take names of 255 bytes, and a step's folder has its number in front.
_LONGEST_NAME = 200


@dataclass
class Context:
    """What a step may use.

    Attributes:
        load: Gives the model of an earlier step by name, ``base`` for the recipe's own; loaded anew, safe to change.
        folder: The step's own folder; what lies there survives an interruption.
        seed: Random generators are already seeded with it.
        model_name: Name of the model this step works on.
        results: Results of the earlier steps by name.
        keys: Content keys of the earlier steps by name.
        current: Gives the model this step works on; a step that changes it must return it as its new model.
        references: References of the models that the earlier steps left by the steps' names.
    """

    load: Callable[[str], LanguageModel]
    folder: Path
    seed: int
    model_name: str
    results: dict[str, dict[str, Any]]
    keys: dict[str, str]
    current: Callable[[], LanguageModel]
    references: Mapping[str, str] = field(default_factory=dict)

    @property
    def model(self) -> LanguageModel:
        """The model this step works on, loaded when first asked for."""
        return self.current()


@dataclass
class Outcome:
    """What a step leaves.

    Attributes:
        result: JSON-able numbers and texts; goes to ``summary.json``.
        views: What the report shows, in order.
        model: The new model, if the step made one.
        save: Writes the new model to a folder; required with `model`.
        headline: The outcome in a few words, for the overview.
        records: Name of a file in the step's folder with records that later steps may take as their data.
        failure: A sentence; the run ends with it after the step's record and the report have been written.
    """

    result: dict[str, Any]
    views: list[View] = field(default_factory=list)
    model: LanguageModel | None = None
    save: Callable[[Path], None] | None = None
    headline: str | None = None
    records: str | None = None
    failure: str | None = None


class Step(Settings):
    """One entry of a recipe's `steps`."""

    # A step whose body is itself a method block, as in `quantize: {dynamic: {}}`, names the field that takes it.
    body: ClassVar[str | None] = None

    name: str | None = None
    """The step's name, by which later steps and `from` refer to its model; by default its recipe key."""

    title: str | None = None
    """Heading of the step in the report; by default its name."""

    source: str | None = Field(None, alias="from")
    """Name of the earlier step whose model to work on (`base`: the recipe's own); by default the last model made."""

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, name: str | None) -> str | None:
        if name is not None and (not name.strip() or re.search(r"[/\\\0]", name) or name.startswith(".")):
            raise ValueError("a folder is called so: leave out slashes, and a dot at the beginning")
        if name is not None and len(name.encode()) > _LONGEST_NAME:
            raise ValueError(f"a folder is called so, with at most {_LONGEST_NAME} bytes")
        return name

    @classmethod
    def parse(cls, values: Any, where: str = "", implied: str | None = None) -> Self:
        """Validate a recipe entry; keys that aren't fields are the body's method block."""
        if cls.body and isinstance(values, (str, list)):
            values, implied = {cls.body: values}, cls.body
        if cls.body and isinstance(values, dict) and cls.body not in values:
            known = set(cls.model_fields) | {f.alias for f in cls.model_fields.values() if f.alias}
            own = {k: v for k, v in values.items() if k in known}
            rest = {k: v for k, v in values.items() if k not in known}
            values, implied = ({**own, cls.body: rest}, cls.body) if rest else (own, None)
        return super().parse(values, where, implied)

    def located(self, records: Mapping[str, Path], models: Mapping[str, str] | None = None) -> Self:
        """The same step with what earlier steps left in place of their names, wherever it or a method in it takes such.

        Args:
            records: Files of records, by the steps' names.
            models: References of models, by the steps' names.
        """
        found: Self = located(self, {name: str(path) for name, path in records.items()}, models or {})
        return found

    def others(self) -> list[str]:
        """Earlier steps whose models it takes besides the one it works on; a run refuses names that it doesn't have."""
        return []

    def inputs(self, context: Context) -> dict[str, Any]:
        """What besides the settings, the seed and the model decides the outcome: hashes of data, earlier results."""
        return {}

    @abstractmethod
    def run(self, context: Context) -> Outcome:
        """Do the work."""


def located(value: Any, records: Mapping[str, str], models: Mapping[str, str]) -> Any:
    """A value with files and references in place of names, wherever settings in it read data or load a model; the value
    itself if there are none.
    """
    if isinstance(value, list):
        placed = [located(each, records, models) for each in value]
        return placed if any(new is not old for new, old in zip(placed, value)) else value
    if isinstance(value, dict):
        named = {key: located(each, records, models) for key, each in value.items()}
        return named if any(named[key] is not each for key, each in value.items()) else value
    if not isinstance(value, Settings):
        return value
    found: dict[str, Any] = {}
    for name in type(value).model_fields:
        old = getattr(value, name)
        known = records if name in value.reads else models if name in value.loads else {}
        new = known[old] if isinstance(old, str) and old in known else located(old, records, models)
        if new is not old:
            found[name] = new
    return value.model_copy(update=found) if found else value
