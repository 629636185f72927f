"""Which of several models predicts a text best: models of different domains tell texts of their domains apart.

A text's probability under each model is compared whole and per byte, so that tokenizers may differ. With every model
equally likely beforehand, Bayes' rule gives the probability that the best one's domain is the text's,

    P(m | text) = p_m(text) / sum over k of p_k(text),

which takes the models' word for it: long texts make it nearly 0 or 1 even where no model is right, so the margin to the
second best in bits per byte is the figure to look at, and a text below a wanted margin has no domain.

Over a whole set the same scores say which model fits it best: bits per byte of all texts together, with a paired
bootstrap over texts between the best and each other. That is model selection where perplexities can't be compared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from posttrain.core.errors import BadRequest
from posttrain.curate.text_scores import TextScore
from posttrain.ops.bootstrap import paired_test, sums_interval

Array = NDArray[np.float64]

# Percentile intervals and tests of fewer texts are too sure of themselves.
_FEWEST = 20


@dataclass(frozen=True)
class Domain:
    """What the models say about a text.

    Attributes:
        bits_per_byte: By model.
        best: The model that predicts it best; None where the margin is smaller than wanted.
        margin: By how many bits per byte it is better than the second best.
        probability: Of the best one by Bayes' rule, all models being equally likely beforehand.
    """

    bits_per_byte: dict[str, float]
    best: str | None
    margin: float
    probability: float


@dataclass(frozen=True)
class Fit:
    """How well a model fits a whole set.

    Attributes:
        bits_per_byte: Of all texts together.
        interval: 95 % bootstrap interval over texts; None with too few texts.
        texts: How many it predicts best, by the wanted margin.
        p_value: Of the paired bootstrap against the best model (Koehn, 2004); None for that one and with too few texts.
    """

    bits_per_byte: float
    interval: tuple[float, float] | None
    texts: int
    p_value: float | None


def domains(scores: Mapping[str, Sequence[TextScore]], min_margin: float = 0.0) -> list[Domain]:
    """The domain of each text.

    Args:
        scores: By model the scores of the same texts, at least two models.
        min_margin: Bits per byte by which the best must be better than the second best.

    Raises:
        BadRequest: If there are fewer than two models, or the texts have no size in bytes.
    """
    if len(scores) < 2:
        raise BadRequest("A domain is told by at least two models.", "Name another one.")
    found = []
    for place, each in enumerate(zip(*scores.values())):
        if not all(score.bytes for score in each):
            raise BadRequest(f"Text {place + 1} has no size in bytes, so models can't be compared on it.")
        bits = {name: score.bits_per_byte for name, score in zip(scores, each)}
        first, second = sorted(bits.values())[:2]
        nats = np.array([score.nats for score in each])
        best = min(bits, key=lambda name: bits[name])
        # exp of minus each one's distance from the best: the best itself adds 1.
        probability = 1 / float(np.exp(nats.min() - nats).sum())
        decided = second - first >= min_margin and second > first
        found.append(Domain(bits, best if decided else None, second - first, probability))
    return found


def fits(scores: Mapping[str, Sequence[TextScore]], found: Sequence[Domain], seed: int = 0) -> dict[str, Fit]:
    """How well each model fits the set, the best first.

    Args:
        scores: As for `domains`.
        found: What that returned.
        seed: Of the bootstrap's draws.
    """
    sums = {name: _sums(each) for name, each in scores.items()}
    values = {name: float(_bits(items.sum(0, keepdims=True))[0]) for name, items in sums.items()}
    order = sorted(values, key=lambda name: values[name])
    best = sums[order[0]]
    told: dict[str, Fit] = {}
    for name in order:
        spread, p_value = None, None
        if len(best) >= _FEWEST:
            interval = sums_interval(sums[name], _bits, seed=seed)
            spread = interval.low, interval.high
            p_value = None if name == order[0] else paired_test(sums[name], best, _bits, seed=seed).p_value
        told[name] = Fit(values[name], spread, sum(each.best == name for each in found), p_value)
    return told


def _sums(scores: Sequence[TextScore]) -> Array:
    return np.array([[score.nats, score.bytes] for score in scores], dtype=np.float64)


def _bits(sums: Array) -> Array:
    found: Array = sums[:, 0] / math.log(2) / sums[:, 1]
    return found
