"""ROUGE: n-grams and longest common subsequences that a summary shares with references; equal to Google's rouge-score.

Lin (2004, "ROUGE: A Package for Automatic Evaluation of Summaries"): ROUGE-N, ROUGE-L, and ROUGE-Lsum over lines, which
takes the union of what the lines of a summary share with each line of a reference. Words are runs of a-z and 0-9 in
lower case, so other scripts have none; stemming is Porter's. Of several references the best counts, for each variant by
itself. The figure is the mean F1 over texts, from 0 to 1. Left out: ROUGE-S, ROUGE-W, splitting into sentences.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any, ClassVar, Literal, TypeAlias

from posttrain.core import events
from posttrain.core.errors import BadRequest
from posttrain.measure import AdditiveMetric, Array, Statistics, means, totals, with_count
from posttrain.ops.porter import stem
from posttrain.ops.subsequence import common_indices, common_length, places

Variant: TypeAlias = Literal["rouge1", "rouge2", "rouge3", "rouge4", "rougeL", "rougeLsum"]

Overlap: TypeAlias = tuple[float, float, float]
"""Precision, recall, F1."""

_WORD = re.compile("[a-z0-9]+")
_NOTHING: Overlap = (0.0, 0.0, 0.0)


class Rouge(AdditiveMetric):
    """F1 of what predictions and references share, with precision and recall."""

    higher_is_better: ClassVar[bool] = True

    score_by: Variant = "rougeL"
    """Which variant is the value; its parts are this one and those of `variants`."""

    variants: list[Variant] = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    """The variants to compute."""

    stemming: bool = False
    """Compare words without their endings; those of at most three letters keep theirs."""

    def statistics(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Statistics:
        """Precision, recall and F1 of each variant.

        Raises:
            BadRequest: If no reference has a word that ROUGE sees.
        """
        self._tell_of_wordless(references)
        variants = self._all()
        rows = []
        with events.task("rouge", total=len(predictions), unit="texts") as progress:
            for text, each in zip(predictions, references):
                prediction = Words(text, self.stemming)
                found = [rouge(prediction, Words(reference, self.stemming), variants) for reference in each]
                rows.append([x for best in zip(*found) for x in max(best, key=_f1)])
                if len(rows) % 100 == 0:
                    progress.advance(100)
        return Statistics(with_count(rows))

    def _tell_of_wordless(self, references: Sequence[Sequence[str]]) -> None:
        """Refuse references without any words, and warn where some have none: these count 0 whatever is predicted."""
        wordless = sum(not any(_WORD.search(text.lower()) for text in each) for each in references)
        if wordless == len(references):
            raise BadRequest(
                "No reference has a word of letters a to z or digits, which are all that ROUGE compares.",
                "bleu, chrf and meteor read other scripts.",
            )
        if wordless:
            events.message(
                f"{wordless} of {len(references)} references have no letters a to z or digits, which are all that "
                "ROUGE compares; they count 0 whatever was predicted.",
                level="warning",
            )

    def values(self, sums: Array) -> Array:
        """Mean F1 of the chosen variant."""
        return means(sums, 3 * self._all().index(self.score_by) + 2)

    def parts(self, rows: Array) -> dict[str, Any]:
        """Mean F1 of each variant, then mean precision and recall."""
        found = dict(zip(self._all(), (totals(rows)[:-1] / len(rows)).reshape(-1, 3).tolist()))
        return {
            **{variant: f1 for variant, (_, _, f1) in found.items()},
            **{f"{variant}_precision": precision for variant, (precision, _, _) in found.items()},
            **{f"{variant}_recall": recall for variant, (_, recall, _) in found.items()},
        }

    def _all(self) -> list[Variant]:
        return list(dict.fromkeys([*self.variants, self.score_by]))


@dataclass
class Words:
    """The words of a text as ROUGE sees them, and what is counted of them when first asked for."""

    text: str
    stemming: bool

    @cached_property
    def words(self) -> list[str]:
        """All words."""
        return self._words(self.text)

    @cached_property
    def lines(self) -> list[list[str]]:
        """The words of each line that isn't empty."""
        lines = [line for line in self.text.split("\n") if line]
        return [self.words] if len(lines) == 1 else [self._words(line) for line in lines]

    @cached_property
    def places(self) -> dict[Any, int]:
        """Where each word stands."""
        return places(self.words)

    def ngrams(self, n: int) -> Counter[Any]:
        """How often each n-gram occurs."""
        if n == 1:
            return Counter(self.words)
        return Counter(zip(*(islice(self.words, start, None) for start in range(n))))

    def _words(self, text: str) -> list[str]:
        words = _WORD.findall(text.lower())
        return [stem(word) if len(word) > 3 else word for word in words] if self.stemming else words


def rouge(prediction: Words, reference: Words, variants: Sequence[str]) -> list[Overlap]:
    """Precision, recall and F1 of each variant (``rouge1``, ``rougeL`` …) for one text and one reference."""
    lcs = rouge_l(prediction, reference) if {"rougeL", "rougeLsum"} & set(variants) else _NOTHING
    found = []
    for variant in variants:
        if variant == "rougeL":
            found.append(lcs)
        elif variant == "rougeLsum":
            one_line = len(prediction.lines) <= 1 and len(reference.lines) <= 1
            found.append(lcs if one_line else rouge_lsum(prediction.lines, reference.lines))
        else:
            found.append(rouge_n(prediction, reference, int(variant.removeprefix("rouge"))))
    return found


def rouge_n(prediction: Words, reference: Words, n: int) -> Overlap:
    """N-grams in common, each as often as in both."""
    ours, theirs = prediction.ngrams(n), reference.ngrams(n)
    shared = sum(min(ours[each], theirs[each]) for each in ours.keys() & theirs.keys())
    return _overlap(shared, max(0, len(prediction.words) - n + 1), max(0, len(reference.words) - n + 1))


def rouge_l(prediction: Words, reference: Words) -> Overlap:
    """The longest common subsequence of all words."""
    length = len(prediction.words)
    return _overlap(common_length(reference.words, prediction.places, length), length, len(reference.words))


def rouge_lsum(prediction: Sequence[Sequence[str]], reference: Sequence[Sequence[str]]) -> Overlap:
    """The union of longest common subsequences, line by line; section 3.2.

    No word counts more often than it occurs in either text, as in ROUGE-1.5.5.

    Args:
        prediction: The words of each line.
        reference: The words of each line.
    """
    ours = Counter(word for line in prediction for word in line)
    theirs = Counter(word for line in reference for word in line)
    lines = [(places(line), len(line)) for line in prediction]
    hits = 0
    for line in reference:
        shared = {index for found, length in lines for index in common_indices(line, found, length)}
        for word in (line[index] for index in shared):
            if ours[word] > 0 and theirs[word] > 0:
                hits += 1
                ours[word] -= 1
                theirs[word] -= 1
    return _overlap(hits, sum(map(len, prediction)), sum(map(len, reference)))


def _overlap(shared: int, predicted: int, actual: int) -> Overlap:
    if not shared:
        return _NOTHING
    precision, recall = shared / predicted, shared / actual
    return precision, recall, 2 * precision * recall / (precision + recall)


def _f1(overlap: Overlap) -> float:
    return overlap[2]
