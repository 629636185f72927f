"""filter: texts of a data set kept or dropped by how well the current model predicts them.

With a reference set of good texts each text gets a robust z-score and a quality, and those far from the reference in
either direction are dropped, or with `flag` marked: anomaly detection and quality estimation are this step too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from posttrain.core.errors import BadRequest
from posttrain.core.settings import fingerprint
from posttrain.curate.filtering import By, Rule, Verdict, judge, write_texts
from posttrain.curate.outliers import USUAL_LIMIT, ReferenceSet, refuse_too_few
from posttrain.curate.text_scores import TextScore, conditions, score_texts, signature
from posttrain.data import dataset
from posttrain.data.record import Record
from posttrain.models.language_model import LanguageModel
from posttrain.pipeline.steps import Context, Outcome, Step
from posttrain.pipeline.views import View, facts, note, samples

KEPT_FILE = "kept.jsonl"
SCORES_FILE = "scores.unfinished"
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
# Characters of a text that the report shows.
_SHOWN = 400


class Filter(Step):
    """Keep the texts of a data set that the current model predicts neither too badly nor too well."""

    reads: ClassVar[tuple[str, ...]] = ("data", "reference")

    data: str
    """Texts, labelled texts, or prompts with answers: a file, hub:owner/name or builtin:NAME."""

    kind: str | None = None
    """Kind of its records; found out from the columns when not given."""

    columns: dict[str, str] = {}
    """Maps the names posttrain uses (text, prompt, completion …) to the file's own."""

    split: str | None = None
    """Which split of the data set."""

    limit: int | None = Field(None, ge=1)
    """Use only the first so many records."""

    max_perplexity: float | None = Field(None, gt=0)
    """Keep texts up to this perplexity a token."""

    between: tuple[float, float] | None = None
    """Keep texts whose perplexity lies between these two, both included."""

    keep: float | None = Field(None, gt=0, le=1)
    """Keep this share of all texts, those with the lowest perplexity."""

    by: By = "perplexity"
    """What `between` and `keep` look at: perplexity a token, or bits per byte."""

    reference: str | None = None
    """Good texts of the kind that is wanted: what differs from them too much in bits per byte is dropped."""

    max_z: float = Field(USUAL_LIMIT, gt=0)
    """With a reference: how many robust standard deviations are not too much."""

    flag: bool = False
    """Keep every text and mark it instead: `kept`, and why not."""

    chat: bool | None = None
    """Render prompts through the chat template; by default conversations are, and prompt + completion are not."""

    window: int | None = Field(None, ge=2)
    """Tokens the model reads at once; when not given 1024, or the model's context where that is shorter."""

    stride: int | None = Field(None, ge=1)
    """By how many tokens the window moves over a longer text; half the window when not given."""

    tokens_per_pass: int = Field(2048, ge=1)
    """Tokens that go through the model together; changes speed and memory, never what is kept but by rounding."""

    samples: int = Field(6, ge=0)
    """How many dropped texts the report shows."""

    def inputs(self, context: Context) -> dict[str, Any]:
        """Hashes of the data and the reference."""
        return self.hashes()

    def hashes(self) -> dict[str, Any]:
        """Hashes of what is read.

        Raises:
            BadRequest: If it can't be read, or nothing says which texts to keep.
        """
        self.rule()
        read = self._read()
        found = {"data": {"source": read.source, "hash": read.hash}}
        if (good := self._reference()) is not None:
            refuse_too_few(len(good))
            found["reference"] = {"source": good.source, "hash": good.hash}
        return found

    def rule(self) -> Rule:
        """What is kept.

        Raises:
            BadRequest: If nothing says so.
        """
        rule = Rule.parse({name: getattr(self, name) for name in Rule.model_fields}, "filter")
        if not rule.says_something and self.reference is None and not self.flag:
            raise BadRequest(
                "Nothing says which texts to keep.", "Give max_perplexity, between, keep or a reference; or flag: true."
            )
        return rule

    def _read(self) -> dataset.Dataset:
        return self._rows()[0]

    def _rows(self) -> tuple[dataset.Dataset, list[dict[str, Any]]]:
        return dataset.read_with_rows(
            self.data, kind=self.kind, columns=self.columns, split=self.split, limit=self.limit, lines=True
        )

    def _reference(self) -> dataset.Dataset | None:
        return None if self.reference is None else dataset.read(self.reference, lines=True)

    def run(self, context: Context) -> Outcome:
        """Score, judge and write."""
        result, verdicts, records = self.filtered(context.model, context.folder / KEPT_FILE, context.folder)
        views = [facts("Filtered", _shown(result))]
        views += _notes(result)
        dropped = [(record, each) for record, each in zip(records, verdicts) if each.dropped_by is not None]
        if dropped and self.samples:
            rows = [[_text(record), each.dropped_by or ""] for record, each in dropped[: self.samples]]
            views.append(samples("What was flagged" if self.flag else "What was dropped", ["text", "why"], rows))
        told = f"{result['kept']} of {result['texts']} texts kept"
        leaves = KEPT_FILE if self.flag or result["kept"] else None
        return Outcome({**result, "file": KEPT_FILE}, views, headline=told, records=leaves)

    def filtered(
        self, model: LanguageModel, out: Path, work: Path, prefix: str = ""
    ) -> tuple[dict[str, Any], list[Verdict], list[Record]]:
        """Score all texts and write those that are kept.

        Args:
            model: Who predicts.
            out: The file for them.
            work: Where scores are kept until all is done, so that an interrupted call goes on.
            prefix: Begins the names of these files.

        Returns:
            The numbers, a verdict for each record, and the records.
        """
        rule = self.rule()
        read, rows = self._rows()
        made = conditions(model, window=self.window, stride=self.stride, chat=self.chat)
        reference, stores = None, [work / f"{prefix}{SCORES_FILE}"]
        if (good := self._reference()) is not None:
            stores.append(work / f"{prefix}reference-{SCORES_FILE}")
            scored = self._scores(model, good, stores[-1], made, "Scoring the reference")
            reference = ReferenceSet([score.bits_per_byte for score in scored])
        scores = self._scores(model, read, stores[0], made, "Scoring texts")
        verdicts = judge(scores, rule, reference)
        write_texts(out, read.records, rows, verdicts, self.flag)
        for store in stores:
            store.unlink(missing_ok=True)
        result = _figures(scores, verdicts)
        if reference is not None:
            result |= {"reference_median": reference.median, "reference_texts": len(reference.values)}
        result["signature"] = signature("filter", {**made, "text": read.hash[:12], "texts": len(scores)})
        return result, verdicts, read.records

    def _scores(
        self, model: LanguageModel, read: dataset.Dataset, store: Path, made: dict[str, Any], name: str
    ) -> list[TextScore]:
        return score_texts(
            model,
            read.records,
            window=self.window,
            stride=self.stride,
            chat=self.chat,
            tokens_per_pass=self.tokens_per_pass,
            store=store,
            key=fingerprint([made, read.hash, self.tokens_per_pass]),
            name=name,
        )


def _figures(scores: Sequence[TextScore], verdicts: Sequence[Verdict]) -> dict[str, Any]:
    kept = sum(each.dropped_by is None for each in verdicts)
    perplexities = np.quantile([score.perplexity for score in scores], _QUANTILES).tolist()
    reasons = Counter(" ".join((each.dropped_by or "").split()[:1]) for each in verdicts if each.dropped_by)
    return {
        "texts": len(scores),
        "kept": kept,
        "dropped": len(scores) - kept,
        "kept_share": kept / len(scores),
        "dropped_by": dict(reasons),
        "perplexity": {f"p{round(100 * at)}": value for at, value in zip(_QUANTILES, perplexities)},
        "tokens_scored": sum(score.tokens for score in scores),
        "unknown_tokens": sum(score.unknown for score in scores),
    }


def _shown(result: dict[str, Any]) -> dict[str, Any]:
    spread = {f"perplexity, {name}": value for name, value in result["perplexity"].items()}
    plain = {key: value for key, value in result.items() if not isinstance(value, dict) and key != "signature"}
    return {**plain, **spread}


def _notes(result: dict[str, Any]) -> list[View]:
    views = [note(f"Signature: {result['signature']}", "source")]
    if not result["kept"]:
        views.append(note("No text was kept.", "warning"))
    if result["unknown_tokens"]:
        views.append(note(f"{result['unknown_tokens']} tokens are unknown: what they hide isn't scored.", "warning"))
    return views


def _text(record: Record) -> str:
    """The beginning of a record's text, for people."""
    found = next((getattr(record, name) for name in ("text", "completion", "target") if hasattr(record, name)), None)
    told = found if isinstance(found, str) else str((found or getattr(record, "messages", [{}]))[-1].get("content"))
    return told if len(told) <= _SHOWN else f"{told[:_SHOWN]} …"
