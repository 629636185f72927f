"""Metrics: a pure function below, settings above; each value says how it was made.

`ModelMetric` looks at a model, `TextMetric` compares texts with references. A text metric says what each text adds, a
row of numbers, and what the sums of rows amount to. So texts may come in pieces, confidence intervals draw rows and
never score a text twice, and two systems are compared on the same draws.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from posttrain import __version__
from posttrain.core import catalog
from posttrain.core.errors import BadRequest
from posttrain.core.runtime import checked_seed
from posttrain.core.settings import Settings
from posttrain.data.rows import refuse_half_characters
from posttrain.models.language_model import LanguageModel
from posttrain.ops.bootstrap import Interval, PairedTest, paired_test, sums_interval

Array = NDArray[np.float64]

# Percentile intervals and tests from fewer items than this are too sure of themselves.
FEWEST_ITEMS = 20


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
        stderr: Standard error of the value, where the interval comes from a bootstrap.
    """

    name: str
    value: float
    interval: tuple[float, float] | None
    signature: str
    parts: dict[str, Any] = field(default_factory=dict)
    higher_is_better: bool = True
    stderr: float | None = None

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


@dataclass(frozen=True)
class Comparison:
    """A system beside another one on the same texts.

    Attributes:
        system: What the first one reaches.
        baseline: What the other one reaches.
        difference: The first value less the other.
        interval: 95 % confidence interval of the difference; None with too few texts.
        p_value: How often the difference doesn't have this sign when texts are drawn anew (paired bootstrap, Koehn,
            2004; one-sided); None with too few texts.
    """

    system: Measurement
    baseline: Measurement
    difference: float
    interval: tuple[float, float] | None
    p_value: float | None

    def to_dict(self) -> dict[str, Any]:
        """The JSON form: the system's own, with `baseline`, `difference`, `difference_interval` and `p_value`."""
        return {
            **self.system.to_dict(),
            "baseline": self.baseline.to_dict(),
            "difference": self.difference,
            "difference_interval": list(self.interval) if self.interval else None,
            "p_value": self.p_value,
        }


@dataclass(frozen=True)
class Statistics:
    """What texts add to a metric.

    Attributes:
        rows: [texts, k], one row a text.
        made_with: What the signature says besides the settings.
    """

    rows: Array
    made_with: str = ""


class TextMetric(Metric):
    """A metric of predicted texts, mostly against references."""

    needs_references: ClassVar[bool] = True
    """Whether predictions are compared with references; otherwise there must be none."""

    blank_references: ClassVar[bool] = False
    """Whether a reference without any text says something (that there is no answer)."""

    @abstractmethod
    def statistics(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Statistics:
        """What each text adds.

        Args:
            predictions: At least one text.
            references: For each prediction at least one reference; nothing where the metric needs none.

        Raises:
            BadRequest: If a text isn't of the kind the metric reads.
        """

    @abstractmethod
    def value(self, rows: Array) -> float:
        """The value of all texts together, from their rows [texts, k]."""

    def parts(self, rows: Array) -> dict[str, Any]:
        """What the value is made of; JSON-able."""
        return {}

    def interval(self, rows: Array, seed: int) -> Interval | None:
        """95 % confidence interval of the value and its standard error; None where there are too few texts for one."""
        return None

    def paired(self, rows: Array, baseline: Array, seed: int) -> PairedTest | None:
        """Test of the difference of two systems on the same texts; None where there are too few.

        Raises:
            BadRequest: If the metric has no such test.
        """
        raise BadRequest(f"{catalog.term_of(self)} has no paired test.", "Compare the intervals of the two systems.")

    def score(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]] = (), *, seed: int = 0
    ) -> Measurement:
        """Score texts.

        Args:
            predictions: The texts.
            references: For each of them one or more references; blank ones are left out where there are others.
            seed: Of the draws that the interval comes from, a bootstrap over the texts.

        Raises:
            BadRequest: If there are no texts, a text has no reference, or there are more or fewer references than
                texts.
        """
        references = self._checked(predictions, references, seed)
        return self._measurement(self.statistics(predictions, references), references, seed)

    def compare(
        self,
        predictions: Sequence[str],
        baseline: Sequence[str],
        references: Sequence[Sequence[str]] = (),
        *,
        seed: int = 0,
    ) -> Comparison:
        """Score two systems and how surely they differ.

        Args:
            predictions: The texts of one system.
            baseline: The texts of the other for the same inputs, in the same order.
            references: See `score`.
            seed: Of the draws, which are the same for both systems.

        Raises:
            BadRequest: As `score` does, if the systems have unequal numbers of texts, or the metric has no such test.
        """
        if len(predictions) != len(baseline):
            raise BadRequest(
                f"There are {len(predictions)} predictions, but the baseline has {len(baseline)}.",
                "Compare systems on the same texts.",
            )
        references = self._checked(predictions, references, seed)
        _refuse_unless_texts(baseline, "Baseline")
        ours, theirs = self.both_statistics(predictions, baseline, references)
        test = self.paired(ours.rows, theirs.rows, seed)
        first, second = (self._measurement(each, references, seed) for each in (ours, theirs))
        return Comparison(
            first,
            second,
            difference=first.value - second.value,
            interval=(test.difference.low, test.difference.high) if test else None,
            p_value=test.p_value if test else None,
        )

    def both_statistics(
        self, predictions: Sequence[str], baseline: Sequence[str], references: Sequence[Sequence[str]]
    ) -> tuple[Statistics, Statistics]:
        """The statistics of two systems, with columns of the same meaning."""
        return self.statistics(predictions, references), self.statistics(baseline, references)

    def _checked(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], seed: int
    ) -> Sequence[Sequence[str]]:
        """The references, without the blank ones that say nothing."""
        checked_seed(seed)
        if isinstance(predictions, str) or any(isinstance(each, str) for each in references):
            raise BadRequest("Predictions must be a list of texts, and references a list of texts for each of them.")
        if not predictions:
            raise BadRequest("There are no predictions to score.")
        _refuse_unless_texts(predictions, "Prediction")
        term = catalog.term_of(self)
        if not self.needs_references:
            if references:
                raise BadRequest(f"{term} takes no references.", "Leave them out.")
            return ()
        if len(predictions) != len(references):
            raise BadRequest(f"There are {len(predictions)} predictions, but references for {len(references)}.")
        for number, each in enumerate(references, 1):
            _refuse_unless_texts(each, f"Reference of text {number}, number")
        kept = [each if self.blank_references else [text for text in each if text.strip()] for each in references]
        for number, each in enumerate(kept, 1):
            if not each:
                raise BadRequest(f"Text {number} has no reference with any text, so there is nothing to compare with.")
        return kept

    def _measurement(self, found: Statistics, references: Sequence[Sequence[str]], seed: int) -> Measurement:
        term = catalog.term_of(self)
        # A batch size never changes a value.
        told = self.model_dump(mode="json", exclude={"batch_size"}, exclude_none=True)
        written = {name: "+".join(map(str, v)) if isinstance(v, list) else str(v) for name, v in told.items()}
        settings = [f"{name}:{text.replace('|', '%7c')}" for name, text in written.items()]  # | parts a signature
        texts = [f"texts:{len(found.rows)}", *([f"references:{_digest(references)}"] if references else [])]
        made = [found.made_with] if found.made_with else []
        interval = self.interval(found.rows, seed)
        return Measurement(
            name=term,
            value=self.value(found.rows),
            interval=(interval.low, interval.high) if interval else None,
            stderr=interval.stderr if interval else None,
            signature="|".join([term, *settings, *made, *texts, f"posttrain:{__version__}"]),
            parts={**self.parts(found.rows), "texts": len(found.rows)},
            higher_is_better=self.higher_is_better,
        )


class AdditiveMetric(TextMetric):
    """A metric whose value is known from the sums of rows alone.

    So rows of several pieces of a test set may be put end to end, and drawing texts anew means adding up rows.
    """

    @abstractmethod
    def values(self, sums: Array) -> Array:
        """The values for R sums of rows: [R, k] to [R]."""

    def value(self, rows: Array) -> float:
        """See `TextMetric.value`."""
        return float(self.values(totals(rows)[None])[0])

    def interval(self, rows: Array, seed: int) -> Interval | None:
        """Bootstrap over texts; rows of zeros change nothing and take no part."""
        telling = rows[rows.any(axis=1)]
        if len(telling) < FEWEST_ITEMS:
            return None
        return sums_interval(telling, self.values, seed=seed)

    def paired(self, rows: Array, baseline: Array, seed: int) -> PairedTest | None:
        """Paired bootstrap over texts."""
        telling = rows.any(axis=1) | baseline.any(axis=1)
        if telling.sum() < FEWEST_ITEMS:
            return None
        return paired_test(rows[telling], baseline[telling], self.values, seed=seed)


def signature_differences(first: str, second: str) -> list[str]:
    """What two measurements differ in beside the model: nothing may, if their values are to be compared.

    Args:
        first: A measurement's signature.
        second: Another one's.

    Returns:
        Names of parts of the signatures (``tokenizer``, ``window`` …), ``metric`` for the metric itself.
    """
    parts = [
        {"metric": metric, **dict(part.partition(":")[::2] for part in rest)}
        for metric, *rest in (signature.split("|") for signature in (first, second))
    ]
    names = dict.fromkeys([*parts[0], *parts[1]])
    return [name for name in names if name != "model" and parts[0].get(name) != parts[1].get(name)]


def with_count(rows: Sequence[Sequence[float]]) -> Array:
    """Rows with a column of ones behind them, for metrics that are means over texts: [texts, k] to [texts, k + 1]."""
    values = np.asarray(rows, dtype=np.float64)
    return np.concatenate([values, np.ones((len(values), 1))], axis=1)


def totals(rows: Array) -> Array:
    """The sum of all rows: [texts, k] to [k]; rounded as the sums of draws are, so that values and intervals agree."""
    found: Array = np.ascontiguousarray(rows.T).sum(-1)
    return found


def means(sums: Array, column: int = 0) -> Array:
    """The means of a column, from sums of rows that `with_count` made: [R, k + 1] to [R]."""
    found: Array = sums[:, column] / sums[:, -1]
    return found


def _refuse_unless_texts(texts: Sequence[Any], what: str) -> None:
    """Refuse what is no text, or holds half a character.

    Raises:
        BadRequest: If there is such a thing; says which.
    """
    for number, text in enumerate(texts, 1):
        if not isinstance(text, str):
            raise BadRequest(f"{what} {number} is no text: {text!r}.")
        if not text.isascii():
            refuse_half_characters(text, f"{what} {number}")


def _digest(references: Sequence[Sequence[str]]) -> str:
    """The first 12 hex digits of the SHA-256 of all references, so that values of different test sets differ."""
    digest = hashlib.sha256()
    for each in references:
        digest.update("\x1f".join(each).encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()[:12]
