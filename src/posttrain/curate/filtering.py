"""Texts kept or dropped by how well a model predicts them.

Thresholds as in CCNet (Wenzek et al., 2020, "CCNet: Extracting High Quality Monolingual Datasets from Web Crawl Data"):
an upper one, a band, or the best share. A low perplexity is no merit by itself (repetition has the lowest of all), so a
band or a reference set of good texts is often the better rule. Several rules may stand together; a text is kept if it
passes all of them. Every text keeps all its columns and gets what was found.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from posttrain.core.errors import BadRequest
from posttrain.core.settings import Settings
from posttrain.curate.outliers import USUAL_LIMIT, ReferenceSet
from posttrain.curate.text_scores import TextScore
from posttrain.data.record import Record
from posttrain.data.shapes import COLUMNS, build, sniff
from posttrain.data.writing import row as row_of
from posttrain.data.writing import write_rows

By = Literal["perplexity", "bits_per_byte"]


class Rule(Settings):
    """Which texts are kept."""

    max_perplexity: float | None = Field(None, gt=0)
    """Keep texts up to this perplexity a token."""

    between: tuple[float, float] | None = None
    """Keep texts whose perplexity lies between these two, both included."""

    keep: float | None = Field(None, gt=0, le=1)
    """Keep this share of all texts, those with the lowest perplexity."""

    by: By = "perplexity"
    """What `between` and `keep` look at: perplexity a token, or bits per byte."""

    max_z: float = Field(USUAL_LIMIT, gt=0)
    """With a reference set: keep texts whose bits per byte lie within so many robust standard deviations of it."""

    @model_validator(mode="after")
    def _ordered(self) -> Rule:
        if self.between is not None and any(map(math.isnan, self.between)):
            raise ValueError(f"a band lies between two numbers, not {self.between[0]} and {self.between[1]}")
        if self.between is not None and self.between[0] > self.between[1]:
            raise ValueError(f"the band's lower end {self.between[0]} lies above its upper end {self.between[1]}")
        return self

    @property
    def says_something(self) -> bool:
        """Whether it drops any text without a reference set."""
        return any(each is not None for each in (self.max_perplexity, self.between, self.keep))


@dataclass(frozen=True)
class Verdict:
    """What became of a text.

    Attributes:
        score: What predicting it costs.
        z: Its modified z-score in the reference set; None without one.
        quality: Its conformal p-value there; None without one.
        dropped_by: Why it isn't kept, in words; None if it is.
    """

    score: TextScore
    z: float | None
    quality: float | None
    dropped_by: str | None

    def columns(self, flag: bool) -> dict[str, Any]:
        """What is written beside the text; `kept` and `dropped_by` only where texts are flagged and not dropped."""
        found: dict[str, Any] = {
            "perplexity": self.score.perplexity,
            "bits_per_byte": self.score.bits_per_byte,
            "scored_tokens": self.score.tokens,
        }
        if self.z is not None:
            found |= {"z": self.z, "quality": self.quality}
        return found | ({"kept": self.dropped_by is None, "dropped_by": self.dropped_by} if flag else {})


def judge(scores: Sequence[TextScore], rule: Rule, reference: ReferenceSet | None = None) -> list[Verdict]:
    """Apply a rule to all texts of a set.

    Args:
        scores: At least one.
        rule: What is kept.
        reference: Values of bits per byte that texts are judged by.
    """
    values = np.array([getattr(score, rule.by) for score in scores])
    bits = [score.bits_per_byte for score in scores]
    z = None if reference is None else reference.z(bits)
    quality = None if reference is None else reference.quality(bits)
    beyond = set() if rule.keep is None else _beyond_share(values, rule.keep)
    found = []
    for place, (score, value) in enumerate(zip(scores, values.tolist())):
        own_z = None if z is None else float(z[place])
        reason = _reason(score.perplexity, value, place in beyond, own_z, rule)
        found.append(Verdict(score, own_z, None if quality is None else float(quality[place]), reason))
    return found


def _beyond_share(values: np.ndarray[Any, Any], share: float) -> set[int]:
    """Places of all but the lowest share; of equal values the first are kept, and always at least one."""
    count = max(1, math.floor(len(values) * share + 0.5))
    return set(np.argsort(values, kind="stable")[count:].tolist())


def _reason(perplexity: float, value: float, beyond: bool, z: float | None, rule: Rule) -> str | None:
    what = rule.by.replace("_", " ")
    if not math.isfinite(value):
        return f"no {what}"
    if rule.max_perplexity is not None and perplexity > rule.max_perplexity:
        return f"perplexity {perplexity:.4g} > {rule.max_perplexity:g}"
    if rule.between is not None and not rule.between[0] <= value <= rule.between[1]:
        return f"{what} {value:.4g} outside {rule.between[0]:g} to {rule.between[1]:g}"
    if beyond:
        return f"{what} {value:.4g} not among the lowest {rule.keep:.0%}"
    if z is not None and not abs(z) <= rule.max_z:
        return f"z {z:+.1f} beyond {rule.max_z:g}"
    return None


def write_texts(
    path: Path,
    records: Sequence[Record],
    rows: Sequence[Mapping[str, Any]],
    verdicts: Sequence[Verdict],
    flag: bool = False,
) -> None:
    """Write the kept texts, or all of them flagged, as JSON Lines that read again as the same records; atomically.

    Raises:
        Failure: If the disk is full or the file may not be written.
    """
    write_rows(
        (
            {**as_row(record, row), **verdict.columns(flag)}
            for record, row, verdict in zip(records, rows, verdicts)
            if flag or verdict.dropped_by is None
        ),
        path,
    )


def as_row(record: Record, row: Mapping[str, Any]) -> dict[str, Any]:
    """A row that reads as the record, with what else stood in the row it was made of.

    That row itself where it reads so again; otherwise (a table has no types) the record's columns in their place.
    """
    own = row_of(record)
    for candidate in (dict(row), {**{name: value for name, value in row.items() if name not in COLUMNS}, **own}):
        with suppress(BadRequest):  # a column that makes another kind of record of it
            if build(sniff(record.origin, candidate, None), record.origin, candidate) == record:
                return candidate
    return own
