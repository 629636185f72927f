"""METEOR: words of a prediction aligned with a reference by form, then by stem, then by meaning; rewards word order.

Lavie and Agarwal (2007, "METEOR: An Automatic Metric for MT Evaluation with High Levels of Correlation with Human
Judgments"), with the parameters of Banerjee and Lavie (2005). Each stage pairs the words that are left, from the end of
both texts, as NLTK does; the alignment with the fewest crossings isn't searched for. Words are runs of letters and
digits in lower case, and punctuation marks. Of several references the best counts; the figure is the mean over texts.
Synonyms come from WordNet through NLTK, where both are installed; nothing is downloaded. Left out: paraphrases, and
weights of function words (METEOR 1.5).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from itertools import pairwise
from typing import Any, ClassVar

from pydantic import Field

from posttrain.core import events
from posttrain.core.errors import Failure
from posttrain.measure import AdditiveMetric, Array, Statistics, means, totals, with_count
from posttrain.ops.porter import stem

_WORD = re.compile(r"\w+|[^\w\s]")

Synonyms = Callable[[str], Collection[str]]


class Meteor(AdditiveMetric):
    """Mean METEOR of texts."""

    higher_is_better: ClassVar[bool] = True

    alpha: float = Field(0.9, ge=0, le=1)
    """Weight of recall in the mean of precision and recall."""

    beta: float = Field(3.0, ge=0)
    """Exponent of the penalty for words out of order."""

    gamma: float = Field(0.5, ge=0, le=1)
    """The largest such penalty."""

    stemming: bool = True
    """Also align words of the same stem."""

    synonyms: bool = False
    """Also align words that WordNet has in one set of synonyms."""

    def statistics(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Statistics:
        """Score, precision, recall and penalty of each text.

        Raises:
            Failure: If synonyms are asked for and WordNet isn't there.
        """
        synonyms = _wordnet() if self.synonyms else None
        rows = []
        with events.task("meteor", total=len(predictions), unit="texts") as progress:
            for prediction, each in progress.over(zip(predictions, references)):
                ours = words(prediction)
                rows.append(max(self._scored(ours, words(reference), synonyms) for reference in each))
        return Statistics(with_count(rows))

    def _scored(
        self, ours: Sequence[str], theirs: Sequence[str], synonyms: Synonyms | None
    ) -> tuple[float, float, float, float]:
        alignment = align(ours, theirs, self.stemming, synonyms)
        if not alignment:
            return 0.0, 0.0, 0.0, 0.0
        precision, recall = len(alignment) / len(ours), len(alignment) / len(theirs)
        mean = precision * recall / (self.alpha * precision + (1 - self.alpha) * recall)
        penalty = self.gamma * (chunks(alignment) / len(alignment)) ** self.beta
        return (1 - penalty) * mean, precision, recall, penalty

    def values(self, sums: Array) -> Array:
        """Mean score."""
        return means(sums)

    def parts(self, rows: Array) -> dict[str, Any]:
        """Means over the texts."""
        return dict(zip(("precision", "recall", "penalty"), (totals(rows)[1:4] / len(rows)).tolist()))


def words(text: str) -> list[str]:
    """The words and punctuation marks of a text in lower case."""
    return _WORD.findall(text.lower())


def align(
    prediction: Sequence[str], reference: Sequence[str], stemming: bool = True, synonyms: Synonyms | None = None
) -> list[tuple[int, int]]:
    """Pairs of aligned words, by their index in the prediction and in the reference, in the prediction's order.

    Args:
        prediction: Words.
        reference: Words.
        stemming: Whether a second stage aligns equal stems.
        synonyms: For a third stage: what a word may be replaced by.
    """
    stages: list[tuple[Callable[[str], Collection[str]], Callable[[str], str]]] = [(lambda word: (word,), str)]
    if stemming:
        stages.append((lambda word: (stem(word),), stem))
    if synonyms is not None:
        stages.append((lambda word: {*synonyms(word), word}, str))
    ours, theirs = list(range(len(prediction))), list(range(len(reference)))
    pairs: list[tuple[int, int]] = []
    for keys_of, key_of in stages:
        waiting: dict[str, list[int]] = defaultdict(list)
        for index in theirs:
            waiting[key_of(reference[index])].append(index)
        found: list[tuple[int, int]] = []
        for index in reversed(ours):
            places = [waiting[key] for key in keys_of(prediction[index]) if waiting.get(key)]
            if places:
                found.append((index, max(places, key=lambda place: place[-1]).pop()))
        ours = [index for index in ours if index not in {a for a, _ in found}]
        theirs = [index for index in theirs if index not in {b for _, b in found}]
        pairs += found
    return sorted(pairs)


def chunks(alignment: Sequence[tuple[int, int]]) -> int:
    """How many runs of neighbouring words the alignment has, neighbouring in both texts."""
    return 1 + sum((b[0] - a[0], b[1] - a[1]) != (1, 1) for a, b in pairwise(alignment))


def _wordnet() -> Synonyms:
    """The words of all sets of synonyms that a word is in, without those of several words."""
    try:
        from nltk.corpus import wordnet

        wordnet.synsets("word")
    except (ImportError, LookupError) as error:
        raise Failure(
            "Synonyms need NLTK and its copy of WordNet, which aren't both on this machine.",
            "Install nltk and run `python -m nltk.downloader wordnet`, or leave synonyms out.",
        ) from error
    return lambda word: {
        lemma.name() for each in wordnet.synsets(word) for lemma in each.lemmas() if "_" not in lemma.name()
    }
