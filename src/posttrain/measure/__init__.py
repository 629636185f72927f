"""Metrics: a pure function below, settings above; each value says how it was made.

`ModelMetric` looks at a model, `TextMetric` compares texts with references.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from posttrain.core.settings import Settings
from posttrain.models.language_model import LanguageModel


@dataclass(frozen=True)
class Measurement:
    """A number with its provenance.

    Attributes:
        name: The metric's name.
        value: The number.
        interval: 95 % confidence interval (low, high), or None where it has no meaning.
        signature: How it was made; two values with different signatures must not be compared silently.
        parts: What the value is made of (token counts, precisions …), JSON-able.
        higher_is_better: Direction.
    """

    name: str
    value: float
    interval: tuple[float, float] | None
    signature: str
    parts: dict[str, Any] = field(default_factory=dict)
    higher_is_better: bool = True

    def to_dict(self) -> dict[str, Any]:
        """The JSON form: name, value, interval, signature, higher_is_better and the parts."""
        interval = list(self.interval) if self.interval else None
        return {
            "name": self.name,
            "value": self.value,
            "interval": interval,
            "signature": self.signature,
            "higher_is_better": self.higher_is_better,
            **self.parts,
        }


class Metric(Settings):
    """Base of all metrics."""

    higher_is_better: ClassVar[bool] = True


class ModelMetric(Metric):
    """A metric of a model."""

    @abstractmethod
    def measure(self, model: LanguageModel) -> Measurement:
        """Measure `model`."""

    def inputs(self) -> dict[str, Any]:
        """Hashes of the data it reads, so that a cached result is dropped when they change."""
        return {}


class TextMetric(Metric):
    """A metric of predicted texts against references."""

    @abstractmethod
    def score(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Measurement:
        """Score one text a row against one or more references a row."""
