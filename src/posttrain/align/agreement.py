"""Agreement beyond chance: Krippendorff's alpha of any number of annotators, Cohen's kappa of two.

Units that an annotator left out are allowed. Values are compared as names (nominal metric): two are the same or they
aren't. Source: Krippendorff, Content Analysis (2nd edition, 2004), chapter 11; Krippendorff, Computing Krippendorff's
Alpha-Reliability (2011), section C. Left out: the ordinal, interval and ratio metrics.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence

RELIABLE = 0.8
"""Krippendorff (2004, page 241): rely on data from this alpha on."""

TENTATIVE = 0.667
"""Krippendorff (2004, page 241): draw no conclusions, not even tentative ones, below this alpha."""


def krippendorff_alpha(units: Iterable[Sequence[Hashable]]) -> float | None:
    """Nominal alpha, 1 − D_o / D_e = 1 − (n − 1) Σ_{c≠k} o_ck / Σ_{c≠k} n_c n_k.

    A unit with m values adds 1 / (m − 1) to the coincidence o_ck for each ordered pair of its values c and k by
    different annotators; n_c = Σ_k o_ck is how often c occurs in units of two values or more, and n = Σ_c n_c.

    Args:
        units: For each unit the values that its annotators gave, in any order; who gave nothing isn't listed. A unit
            with fewer than two values can't be compared and is passed over.

    Returns:
        1 for full agreement, 0 for that of chance, below 0 for systematic disagreement; None where alpha isn't
        defined, because no unit has two values or all values are the same.
    """
    occurrences: Counter[Hashable] = Counter()
    different = 0.0  # Σ_{c≠k} o_ck
    for unit in units:
        if len(unit) < 2:
            continue
        counts = Counter(unit)
        occurrences += counts
        equal_pairs = sum(count * (count - 1) for count in counts.values())
        different += (len(unit) * (len(unit) - 1) - equal_pairs) / (len(unit) - 1)
    total = occurrences.total()
    by_chance = total * total - sum(count * count for count in occurrences.values())  # Σ_{c≠k} n_c n_k
    return 1 - (total - 1) * different / by_chance if by_chance else None


def cohen_kappa(first: Sequence[Hashable], second: Sequence[Hashable]) -> float | None:
    """Agreement of two annotators beyond chance, κ = (p_o − p_e) / (1 − p_e) (Cohen, 1960).

    p_o is the share of units with the same value, p_e = Σ_c p_1c p_2c what two annotators with these shares of values
    would agree by chance.

    Args:
        first: One annotator's values.
        second: The other's, of the same units.

    Returns:
        1 for full agreement, 0 for that of chance; None where it isn't defined, because there are no units or both gave
        the same single value.

    Raises:
        ValueError: If the two differ in length.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} values are not of the same units")
    if not first:
        return None
    counts, others = Counter(first), Counter(second)
    observed = sum(one == other for one, other in zip(first, second)) / len(first)
    expected = sum(count * others[value] for value, count in counts.items()) / len(first) ** 2
    return (observed - expected) / (1 - expected) if expected < 1 else None
