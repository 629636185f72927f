"""Who beat whom in pairwise judgements: win rates with intervals, a sign test a pair, and the pull of the first place.

A win rate counts a tie as half. Its interval is Wilson's (1927, "Probable Inference, the Law of Succession, and
Statistical Inference") with the number of prompts in place of the number of votes: votes on one prompt say nearly the
same, and a rate of 1 from five prompts isn't certainty. The test asks on how many prompts each system got more of the
votes, leaves even ones out, and is the exact binomial one, two-sided (the sign test: Dixon and Mood, 1946). p-values of
several pairs are adjusted by Holm (1979). Left out: models of annotators.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from posttrain.bench.ratings import Comparison
from posttrain.ops.two_samples import holm


@dataclass(frozen=True)
class PairRecord:
    """How two systems did against each other.

    Attributes:
        first: A system.
        second: Another one, behind it in the alphabet.
        wins: Votes for the first.
        ties: Votes for neither.
        losses: Votes for the second.
        prompts: On how many prompts the two were compared.
        win_rate: (wins + ties / 2) / votes.
        interval: Wilson's interval of the win rate, over prompts.
        p_value: Of the sign test over prompts.
        adjusted: The same, adjusted for all pairs.
    """

    first: str
    second: str
    wins: int
    ties: int
    losses: int
    prompts: int
    win_rate: float
    interval: tuple[float, float]
    p_value: float
    adjusted: float


@dataclass(frozen=True)
class PositionBias:
    """How often the answer shown first won.

    Attributes:
        first: Votes for the answer shown first.
        second: Votes for the one shown second.
        share: first / (first + second).
        interval: Wilson's interval of the share.
        p_value: Of an exact two-sided test against a half.
    """

    first: int
    second: int
    share: float
    interval: tuple[float, float]
    p_value: float


def pair_records(comparisons: Sequence[Comparison], confidence: float = 0.95) -> list[PairRecord]:
    """A record for each pair of systems that were compared, by name.

    Args:
        comparisons: The votes.
        confidence: Of the intervals, in (0, 1).
    """
    votes: dict[tuple[str, str], Counter[str]] = {}
    leads: dict[tuple[str, str], Counter[str]] = {}  # by prompt, votes for the first less those for the second
    for each in comparisons:
        first, second = sorted((each.first, each.second))
        chosen = each.first if each.winner == "first" else each.second
        choice = "tie" if each.winner == "tie" else "wins" if chosen == first else "losses"
        votes.setdefault((first, second), Counter())[choice] += 1
        leads.setdefault((first, second), Counter())[each.prompt] += {"wins": 1, "losses": -1}.get(choice, 0)
    pairs = sorted(votes)
    p_values = [
        sign_test(sum(lead > 0 for lead in leads[pair].values()), sum(lead < 0 for lead in leads[pair].values()))
        for pair in pairs
    ]
    found = []
    for pair, p_value, adjusted in zip(pairs, p_values, holm(p_values)):
        wins, ties, losses = (votes[pair][choice] for choice in ("wins", "tie", "losses"))
        rate, prompts = (wins + ties / 2) / (wins + ties + losses), len(leads[pair])
        interval = wilson_interval(rate, prompts, confidence)
        found.append(PairRecord(*pair, wins, ties, losses, prompts, rate, interval, p_value, adjusted))
    return found


def position_bias(comparisons: Sequence[Comparison], confidence: float = 0.95) -> PositionBias | None:
    """How the place an answer was shown at drew votes; None if no vote with a winner knows its order.

    Args:
        comparisons: The votes.
        confidence: Of the interval, in (0, 1).
    """
    counts = Counter(each.winner for each in comparisons if each.ordered)
    first, second = counts["first"], counts["second"]
    if not first + second:
        return None
    share = first / (first + second)
    interval = wilson_interval(share, first + second, confidence)
    return PositionBias(first, second, share, interval, sign_test(first, second))


def sign_test(wins: int, losses: int) -> float:
    """Two-sided p-value of so many wins and losses where both are equally likely, exact; 1 for none of either."""
    total, fewer = wins + losses, min(wins, losses)
    tail = sum(math.comb(total, k) for k in range(fewer + 1))
    return min(1.0, float(2 * tail / 2**total))


def wilson_interval(share: float, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share.

    Args:
        share: In [0, 1]; also a mean of values in [0, 1], for which the interval is wide enough.
        count: Of how many, at least 1.
        confidence: In (0, 1).
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, middle - half), min(1.0, middle + half)
