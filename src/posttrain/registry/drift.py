"""Drift: whether what a model meets today still comes from the population it was made for.

A reference set and a live one are compared in several quantities: numbers a text has (its loss, its length) and classes
(labels). Each gets a test and an effect size; p-values are adjusted for being several. An alarm needs both: with
thousands of texts a difference of no importance is significant, with dozens a large one may be chance. What counts as
effect is the population stability index above what samples of these sizes have by chance: from 0.1 on moderate, from
0.25 on strong, the limits of credit scoring (Siddiqi, 2006).

Which quantities are worth watching is the caller's choice. Left out: where in time a stream began to drift.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from posttrain.core.errors import BadRequest
from posttrain.ops.two_samples import (
    chi_square_test,
    class_stability_index,
    holm,
    index_by_chance,
    ks_distance,
    ks_test,
    stability_index,
    superiority,
)

Verdict = Literal["none", "slight", "moderate", "strong"]

MODERATE = 0.1
STRONG = 0.25
# Fewer texts can't tell a distribution.
FEWEST = 20


@dataclass(frozen=True)
class Quantity:
    """How a quantity differs between two populations.

    Attributes:
        kind: ``number`` or ``class``.
        reference: Median in the reference set; for classes the share of each.
        live: The same in the live set.
        distance: Kolmogorov-Smirnov distance of numbers, largest difference of a class's share; in [0, 1].
        live_is_higher: Probability that a live value is above one of the reference, 0.5 without drift; None for
            classes.
        psi: Population stability index.
        psi_by_chance: What it is on average without drift, for samples of these sizes.
        p_value: Of the permutation test, adjusted for the number of quantities.
        verdict: ``none`` if not significant; otherwise by the index above chance.
    """

    kind: Literal["number", "class"]
    reference: float | dict[str, float]
    live: float | dict[str, float]
    distance: float
    live_is_higher: float | None
    psi: float
    psi_by_chance: float
    p_value: float
    verdict: Verdict


@dataclass(frozen=True)
class Drift:
    """What was found.

    Attributes:
        verdict: The gravest of all quantities.
        quantities: By name.
        reference_texts: Size of the reference set.
        live_texts: Size of the live one.
        signature: How it was made; empty where whoever collected the populations didn't say.
    """

    verdict: Verdict
    quantities: dict[str, Quantity]
    reference_texts: int
    live_texts: int
    signature: str = ""

    @property
    def alarm(self) -> bool:
        """Whether somebody should look: the drift is significant and at least moderate."""
        return self.verdict in ("moderate", "strong")

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {**asdict(self), "alarm": self.alarm}


@dataclass(frozen=True)
class Population:
    """What was seen of a set of texts.

    Attributes:
        numbers: By quantity one value a text.
        classes: By quantity how often each class occurs.
        texts: How many texts there are.
    """

    numbers: Mapping[str, Sequence[float]]
    classes: Mapping[str, Mapping[Hashable, int]]
    texts: int


def refuse_too_few(name: str, texts: int) -> None:
    """Refuse a set of so few texts.

    Args:
        name: What it is called: reference or live.
        texts: How many it has.

    Raises:
        BadRequest: If there are too few.
    """
    if texts < FEWEST:
        raise BadRequest(f"The {name} set has {texts} texts; at least {FEWEST} are needed to compare.")


def compare_populations(
    reference: Population,
    live: Population,
    *,
    level: float = 0.01,
    bins: int = 10,
    permutations: int = 2000,
    seed: int = 0,
) -> Drift:
    """Compare two populations in every quantity that both have.

    Args:
        reference: What things were like.
        live: What they are like.
        level: Adjusted p-value below which a difference is significant.
        bins: Of the stability index of numbers; fewer where the smaller set has under 5 values a bin.
        permutations: Of the tests; 1 / (permutations + 1) is the smallest p-value there can be.
        seed: Of the permutations.

    Raises:
        BadRequest: If a set is too small, nothing can be compared, or no p-value could ever be below the level.
    """
    for name, each in (("reference", reference), ("live", live)):
        refuse_too_few(name, each.texts)
    numbers = [name for name in reference.numbers if name in live.numbers]
    classes = [name for name in reference.classes if name in live.classes]
    count = len(numbers) + len(classes)
    if not count:
        raise BadRequest("The two sets have no quantity in common.")
    if count / (permutations + 1) >= level:
        raise BadRequest(
            f"With {permutations} permutations and {count} quantities no p-value is below {level:g}.",
            f"Use at least {round(count / level)} permutations.",
        )
    bins = max(2, min(bins, min(reference.texts, live.texts) // 5))
    raw = [
        ks_test(reference.numbers[name], live.numbers[name], permutations=permutations, seed=seed) for name in numbers
    ] + [
        chi_square_test(reference.classes[name], live.classes[name], permutations=permutations, seed=seed)
        for name in classes
    ]
    adjusted = dict(zip([*numbers, *classes], holm(raw)))
    found = {
        name: _number(reference.numbers[name], live.numbers[name], adjusted[name], level, bins) for name in numbers
    }
    found |= {name: _class(reference.classes[name], live.classes[name], adjusted[name], level) for name in classes}
    order: tuple[Verdict, ...] = ("none", "slight", "moderate", "strong")
    gravest = max((each.verdict for each in found.values()), key=order.index)
    return Drift(gravest, found, reference.texts, live.texts)


def _number(first: Sequence[float], second: Sequence[float], p_value: float, level: float, bins: int) -> Quantity:
    psi, chance = stability_index(first, second, bins), index_by_chance(len(first), len(second), bins)
    return Quantity(
        kind="number",
        reference=float(np.median(first)),
        live=float(np.median(second)),
        distance=ks_distance(first, second),
        live_is_higher=superiority(first, second),
        psi=psi,
        psi_by_chance=chance,
        p_value=p_value,
        verdict=_verdict(psi - chance, p_value, level),
    )


def _class(first: Mapping[Hashable, int], second: Mapping[Hashable, int], p_value: float, level: float) -> Quantity:
    names = list(dict.fromkeys([*first, *second]))
    sizes = sum(first.values()), sum(second.values())
    shares = [{str(n): each.get(n, 0) / size for n in names} for each, size in zip((first, second), sizes)]
    psi, chance = class_stability_index(first, second), index_by_chance(*sizes, len(names))
    return Quantity(
        kind="class",
        reference=shares[0],
        live=shares[1],
        distance=max(abs(shares[0][name] - shares[1][name]) for name in shares[0]),
        live_is_higher=None,
        psi=psi,
        psi_by_chance=chance,
        p_value=p_value,
        verdict=_verdict(psi - chance, p_value, level),
    )


def _verdict(effect: float, p_value: float, level: float) -> Verdict:
    if p_value >= level:
        return "none"
    return "strong" if effect >= STRONG else "moderate" if effect >= MODERATE else "slight"
