"""Memorization: how exposed planted secrets are, and how much of the training data comes out word for word.

Exposure (Carlini et al., 2019, "The Secret Sharer", section 4): of all secrets R that could have been planted, how few
the model finds as likely as the planted one,

    exposure = log2 |R| - log2 rank,   rank = number of secrets whose log-perplexity is not above the planted one's

A secret that was never seen reaches x bits with probability 2^-x. Where R is too large to score, a sample stands for
it, which bounds the exposure by the sample's size; beyond that a skew-normal distribution fitted to the sample's
log-perplexities goes on, with the Kolmogorov-Smirnov distance of the fit beside it. Of several secrets planted in one
space none counts as another's rival, or those that were memorized would hide one another.

Verbatim extraction (Carlini et al., 2023, "Quantifying Memorization Across Neural Language Models"): a passage counts
as memorized if the model, given what comes before it, goes on greedily with exactly its tokens. Text that any model
would write (a licence, a verse) counts too; compare with a model that didn't see the data. Left out: membership
inference.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from pydantic import Field, field_validator

from posttrain.core.catalog import build
from posttrain.core.errors import BadRequest
from posttrain.core.events import task
from posttrain.core.files import hash_file
from posttrain.data import dataset
from posttrain.data.canaries import Canary, Kind, other_secrets, read_canaries
from posttrain.data.chat_template import tokenize
from posttrain.data.encoded import Encoded
from posttrain.data.record import Record
from posttrain.guard import Finding, Findings, ModelGuard, severest
from posttrain.models.language_model import LanguageModel

Row = dict[str, Any]


@dataclass(frozen=True)
class _Passage:
    """Tokens of a record from `start` on, which must come out after those from `begin` on."""

    item: Encoded
    begin: int
    start: int


class Memorization(ModelGuard):
    """Measure what a model has memorized of its training data."""

    reads: ClassVar[tuple[str, ...]] = ("data",)

    canaries: str | None = None
    """A file of canaries that were planted in the training data, as `posttrain canaries` writes it."""

    kind: Kind = "text"
    """Records the canaries were planted as: text, completion or chat."""

    candidates: int = Field(512, ge=16)
    """Most secrets that each canary is compared with; if there are no more, the rank is exact."""

    exposure: float = Field(10.0, ge=0)
    """Bits of exposure from which a canary counts as memorized; one never seen reaches x bits once in 2^x times."""

    data: str | None = None
    """Training data of which the model is asked to continue passages."""

    passages: int = Field(100, ge=1)
    """How many passages of it, evenly spread."""

    prefix_tokens: int = Field(50, ge=1)
    """Tokens of a text that the model is given; of records with a prompt it is given the prompt."""

    lengths: list[int] = [50]
    """Tokens that must come out exactly; passages are as long as the longest."""

    seed: int = 0
    """Seed of the sample of secrets."""

    batch_size: int = Field(16, ge=1)
    """Records continued at once; never changes the outcome."""

    @field_validator("lengths")
    @classmethod
    def _some_lengths(cls, lengths: list[int]) -> list[int]:
        if not lengths or min(lengths) < 1:
            raise ValueError("at least one length, none below 1")
        return sorted(set(lengths))

    def inputs(self) -> dict[str, Any]:
        """Hashes of canaries and data.

        Raises:
            BadRequest: If neither is given, or one can't be read.
        """
        self._check()
        found: dict[str, Any] = {}
        if self.canaries is not None:
            read_canaries(self.canaries)
            found["canaries"] = {"source": self.canaries, "hash": hash_file(self.canaries)}
        if self.data is not None:
            read = dataset.read(self.data)
            found["memorized"] = {"source": read.source, "hash": read.hash}
        return found

    def _check(self) -> None:
        if self.canaries is None and self.data is None:
            raise BadRequest("Neither `canaries` nor `data` is given to look for.", "Give one of them, or both.")

    def inspect(self, model: LanguageModel) -> Findings:
        """Measure; each canary that counts as memorized and each passage that comes out is a finding.

        A canary's positions are those of the secret in its sentence, a passage's those of the tokens that came out, as
        characters of the record's text.

        Raises:
            BadRequest: If the model isn't causal, no record is long enough, or there is nothing to look for.
        """
        self._check()
        if not model.is_causal:
            raise BadRequest(f"{type(model.network).__name__} writes no text, so it can't repeat any.")
        findings: list[Finding] = []
        figures: dict[str, Any] = {}
        if self.canaries is not None:
            rows = self._exposures(model, read_canaries(self.canaries))
            figures |= _exposure_figures(rows, self.exposure)
            findings += [_exposed(row) for row in rows if row["exposure"] >= self.exposure]
        if self.data is not None:
            extracted, counts = self._extracted(model)
            findings += extracted
            figures |= counts
        return Findings(severest(findings), "", findings, figures)

    def _exposures(self, model: LanguageModel, canaries: Sequence[Canary]) -> list[Row]:
        """Each canary with its exposure; canaries of the same space share the secrets they are compared with."""
        spaces: dict[tuple[str, str, int], list[Canary]] = defaultdict(list)
        for canary in canaries:
            spaces[canary.template, canary.alphabet, len(canary.secret)].append(canary)
        rows: dict[str, Row] = {}
        for group in spaces.values():
            exact = group[0].space <= self.candidates
            others = [] if exact else other_secrets(group[0], self.candidates, self.seed)
            planted = {canary.secret for canary in group}
            everything = [group[0].secret, *other_secrets(group[0], self.candidates)] if exact else [*planted, *others]
            bits = dict(zip(everything, self._bits(model, group[0], everything)))
            compared = [bits[each] for each in everything if each not in planted]
            for canary in group:
                rows[canary.text] = _exposure(canary, bits[canary.secret], compared, exact)
        return [rows[canary.text] for canary in canaries]

    def _bits(self, model: LanguageModel, canary: Canary, secrets: Sequence[str]) -> list[float]:
        """The log-perplexity of the sentence with each secret, in bits (their definition 1)."""
        # Scoring is torch's, which reading settings must not import.
        from posttrain.models.token_losses import token_losses

        records: list[Record] = [canary.record(self.kind, secret) for secret in secrets]
        ids = [item.input_ids for item in tokenize(records, model.tokenizer, train_on="all", append_eos=False)]
        longest = max(map(len, ids))
        if model.context_length is not None and longest > model.context_length:
            raise BadRequest("A canary is longer than the model's context.", "Make shorter ones.")
        with task("Exposure", total=sum(len(each) - 1 for each in ids), unit="tokens") as progress:
            nats = token_losses(model.network, ids, window=max(2, longest), stride=max(2, longest), progress=progress)
        return [float(each.sum(dtype="float64")) / math.log(2) for each in nats]

    def _extracted(self, model: LanguageModel) -> tuple[list[Finding], dict[str, Any]]:
        read = dataset.read(cast(str, self.data))
        passages = [each for item in tokenize(read.records, model.tokenizer) for each in self._passages(item)]
        passages = [each for each in passages if self._fits(model, each)]
        if not passages:
            raise BadRequest(
                f"No record of {read.source} goes on for {self.lengths[-1]} tokens after its prompt or first "
                f"{self.prefix_tokens} tokens.",
                "Lower `lengths` or `prefix_tokens`.",
            )
        chosen = passages[:: max(1, len(passages) // self.passages)][: self.passages]
        matches = self._matches(model, chosen)
        findings = [
            _extraction(model, passage, length)
            for passage, matched in zip(chosen, matches)
            if (length := max((n for n in self.lengths if n <= matched), default=0))
        ]
        shares = {f"verbatim_{n}_share": sum(matched >= n for matched in matches) / len(matches) for n in self.lengths}
        return findings, {
            "verbatim_share": shares[f"verbatim_{self.lengths[-1]}_share"],
            **shares,
            "verbatim_passages": len(chosen),
            "verbatim_longest_tokens": max(matches),
            "verbatim_mean_tokens": sum(matches) / len(matches),
        }

    def _passages(self, item: Encoded) -> list[_Passage]:
        """A record's passages: the answer to its prompt, or of a text one after the other."""
        learned = [place for place, carries in enumerate(item.loss_mask) if carries]
        if not learned:
            return []
        length, prefix = self.lengths[-1], self.prefix_tokens
        if learned[0] > 1:
            found = [_Passage(item, 0, learned[0])]
        else:
            starts = range(prefix, len(item) - length + 1, prefix + length)
            found = [_Passage(item, start - prefix, start) for start in starts]
        wanted = (item.loss_mask[each.start : each.start + length] for each in found)
        return [each for each, mask in zip(found, wanted) if len(mask) == length and all(mask)]

    def _fits(self, model: LanguageModel, passage: _Passage) -> bool:
        tokens = passage.start - passage.begin + self.lengths[-1]
        return model.context_length is None or tokens <= model.context_length

    def _matches(self, model: LanguageModel, passages: Sequence[_Passage]) -> list[int]:
        """For each passage, how many of its tokens come out before the first other one."""
        from posttrain.decode.generation import generate

        written = generate(
            model,
            [each.item.input_ids[each.begin : each.start] for each in passages],
            search=build("search", "greedy"),
            max_new_tokens=self.lengths[-1],
            batch_size=self.batch_size,
            ignore_eos=True,
        )
        return [
            next(
                (
                    n
                    for n, (new, old) in enumerate(zip(each.token_ids, passage.item.input_ids[passage.start :]))
                    if new != old
                ),
                len(each.token_ids),
            )
            for each, passage in zip(written.generations, passages)
        ]


def _exposure(canary: Canary, own: float, others: Sequence[float], exact: bool) -> Row:
    """A canary's exposure by its log-perplexity and those of secrets that were not planted."""
    from posttrain.ops import skew_normal

    rank = 1 + sum(each <= own for each in others)
    most = math.log2(canary.space)
    row: Row = {"text": canary.text, "secret": canary.secret, "repeats": canary.repeats, "bits": own}
    if exact:
        return {**row, "rank": rank, "of": canary.space, "exposure": most - math.log2(rank), "most": most, "by": "rank"}
    sampled = math.log2(len(others) + 1) - math.log2(rank)
    row |= {"rank": rank, "of": len(others) + 1, "most": most, "sampled_exposure": sampled}
    try:
        fitted = skew_normal.fit(others)
    except ValueError:  # all secrets are alike to the model
        return {**row, "exposure": sampled, "by": "sample"}
    extrapolated = min(most, -fitted.log_cdf(own) / math.log(2))
    # Inside the sample the rank needs no assumption; beyond it there is nothing but the fit.
    beyond = rank == 1
    return {
        **row,
        "extrapolated_exposure": extrapolated,
        "fit_distance": skew_normal.distance(fitted, others),
        "exposure": max(sampled, extrapolated) if beyond else sampled,
        "by": "skew-normal" if beyond else "sample",
    }


def _exposure_figures(rows: Sequence[Row], limit: float) -> dict[str, Any]:
    exposures = [row["exposure"] for row in rows]
    return {
        "canaries": len(rows),
        "exposed_canaries": sum(each >= limit for each in exposures),
        "exposed_share": sum(each >= limit for each in exposures) / len(exposures),
        "exposure_highest": max(exposures),
        "exposure_mean": sum(exposures) / len(exposures),
        "exposures": list(rows),
    }


def _exposed(row: Row) -> Finding:
    start = row["text"].index(row["secret"])
    reason = f"a planted secret has {row['exposure']:.1f} of {row['most']:.1f} bits of exposure ({row['by']})"
    return Finding("canary", start, start + len(row["secret"]), reason, "flag")


def _extraction(model: LanguageModel, passage: _Passage, length: int) -> Finding:
    ids, start = passage.item.input_ids, passage.start
    before = len(str(model.tokenizer.decode(ids[:start])))
    whole = len(str(model.tokenizer.decode(ids[: start + length])))
    reason = f"{passage.item.origin}: {length} tokens come out word for word after {start - passage.begin}"
    return Finding("verbatim", before, max(whole, before), reason, "flag")
