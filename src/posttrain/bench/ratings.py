"""Ratings of systems from pairwise judgements: Bradley-Terry by maximum likelihood, with ties, on the scale of Elo.

System i has a strength π_i = exp(β_i), and of two systems that are compared (Bradley and Terry, 1952, "Rank Analysis of
Incomplete Block Designs"; ties by Davidson, 1970, "On Extending the Bradley-Terry Model to Accommodate Ties")

    P(i wins) = π_i / D        P(tie) = ν √(π_i π_j) / D        D = π_i + π_j + ν √(π_i π_j).

Without ties ν is 0, which is logistic regression. A rating is 1000 + 400 / ln 10 · (β_i − mean β), so that 400 points
are odds of ten to one, as with Elo. Intervals are the bootstrap's over prompts: votes on one prompt aren't independent.

The likelihood has no maximum where something could grow forever, as with a system that never lost (Ford, 1957). There,
and only there, each system gets `prior` further wins, as many losses and, where there are ties, as many of those,
spread evenly over the others; the result says so. Systems that no chain of comparisons connects get no ratings at all.

Left out: weights of annotators, the advantage of the place shown first as a parameter, ratings that change with time.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from posttrain.core.errors import BadRequest, Failure, did_you_mean

Array = NDArray[np.float64]
Winner = Literal["first", "second", "tie"]

BASE = 1000.0
"""The rating of the average system, or of the one that ratings are anchored to."""

SCALE = 400.0
"""Points of a rating that make odds of ten to one."""

FEWEST_PROMPTS = 20
"""Percentile intervals from fewer prompts are too narrow."""

# Fits are made together, so many numbers in each of their matrices.
_BATCH_ELEMENTS = 1 << 19
_MOST_STEPS = 200
_HALVINGS = 40
_CONVERGED = 1e-11


@dataclass(frozen=True)
class Comparison:
    """One judgement of two systems' answers to a prompt.

    Attributes:
        prompt: Tells prompts apart; all judgements of one prompt are drawn together.
        first: The system whose answer was shown first.
        second: The other one.
        winner: Whose answer was better.
        ordered: Whether the two were seen in this order; False where nobody knows, or both orders were looked at.
    """

    prompt: str
    first: str
    second: str
    winner: Winner
    ordered: bool = True


@dataclass(frozen=True)
class Rating:
    """What a system is worth.

    Attributes:
        system: Its name.
        rating: In points of Elo.
        interval: The bootstrap's percentile interval; None for fewer than 20 prompts.
        rank: 1 more than how many systems' intervals lie wholly above this one's; None without intervals.
        wins: Votes for it.
        ties: Votes that called it equal.
        losses: Votes against it.
    """

    system: str
    rating: float
    interval: tuple[float, float] | None
    rank: int | None
    wins: int
    ties: int
    losses: int


@dataclass(frozen=True)
class Ratings:
    """All systems, the best first.

    Attributes:
        ratings: One a system.
        ties: ν, how readily ties are given: between equals, ν / (2 + ν) of the votes; 0 if there are none.
        votes: How many comparisons there are.
        prompts: On how many prompts.
        prior: What was added to each system's wins, losses and ties because the likelihood has no maximum; 0 if it has.
        unbounded: Systems that never won or never lost a vote, where that is why the prior was needed.
        penalized_resamples: In how many of the bootstrap's draws the prior was needed.
        resamples: How many draws there are; 0 without intervals.
        confidence: Of the intervals.
    """

    ratings: list[Rating]
    ties: float
    votes: int
    prompts: int
    prior: float
    unbounded: list[str]
    penalized_resamples: int
    resamples: int
    confidence: float

    def probabilities(self, first: str, second: str) -> tuple[float, float, float]:
        """How likely, by the ratings, `first` wins, the two tie, and `second` wins.

        Raises:
            KeyError: If one isn't rated.
        """
        points = {each.system: each.rating for each in self.ratings}
        gap = (points[first] - points[second]) * math.log(10) / SCALE
        win, loss = math.exp(gap / 2), math.exp(-gap / 2)
        whole = win + loss + self.ties
        return win / whole, self.ties / whole, loss / whole


def rate(
    comparisons: Sequence[Comparison],
    *,
    anchor: str | None = None,
    prior: float = 0.5,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Ratings:
    """Rate systems.

    Args:
        comparisons: At least one.
        anchor: The system whose rating is `BASE`; the systems' mean is when None.
        prior: Used only where the likelihood has no maximum, see the module; above 0.
        resamples: Draws of the bootstrap over prompts.
        confidence: Share of the draws that an interval holds, in (0, 1).
        seed: Of the draws.

    Raises:
        BadRequest: If there is nothing to rate, a system is compared with itself, the anchor is unknown, or the systems
            fall into groups that were never compared with each other.
        ValueError: If `prior`, `resamples` or `confidence` is out of range.
    """
    if not (prior > 0 and resamples >= 1 and 0 < confidence < 1):
        raise ValueError(f"out of range: prior {prior}, resamples {resamples}, confidence {confidence}")
    votes = _Votes(comparisons)
    _refuse_groups(votes)
    if anchor is not None and anchor not in votes.systems:
        raise BadRequest(f"Nobody has compared the system '{anchor}'.", did_you_mean(anchor, votes.systems))
    weights = np.ones((1, len(votes.prompts)))
    strengths, ties, penalized = _fitted(votes, weights, prior)
    points = _points(votes, strengths, anchor)[0]
    drawn, needed = (None, 0)
    if len(votes.prompts) >= FEWEST_PROMPTS:
        drawn, needed = _resampled(votes, anchor, prior, resamples, seed)
    wins, draws = (counts[0] for counts in votes.counts(weights))
    ratings = _ratings(votes.systems, points, drawn, confidence, wins, draws)
    bare = [bool(won == 0) or bool(lost == 0) for won, lost in zip(wins.sum(1), wins.sum(0))]
    return Ratings(
        ratings=ratings,
        ties=float(ties[0]),
        votes=len(comparisons),
        prompts=len(votes.prompts),
        prior=prior if penalized[0] else 0.0,
        unbounded=[system for system, none in zip(votes.systems, bare) if none and penalized[0]],
        penalized_resamples=needed,
        resamples=0 if drawn is None else resamples,
        confidence=confidence,
    )


def online_elo(
    comparisons: Sequence[Comparison], *, k: float = 32.0, orders: int = 100, seed: int = 0
) -> dict[str, float]:
    """Elo's own running update, R += k (S − E), E = 1 / (1 + 10^((R_other − R) / 400)), averaged over orders.

    The outcome depends on the order in which votes come, for votes on fixed systems an accident; so they are shuffled
    `orders` times and the final ratings averaged. Source: Elo, The Rating of Chessplayers (1978), section 1.6.

    Args:
        comparisons: The votes; a tie is half a win for each.
        k: Most points that one vote can move.
        orders: How many orders; 1 takes the votes as they come.
        seed: Of the shuffling.

    Returns:
        The rating of each system, by name in alphabetical order; the mean is `BASE`.

    Raises:
        BadRequest: As in `rate`, but for groups.
        ValueError: If `k` or `orders` is out of range.
    """
    if not (k > 0 and orders >= 1):
        raise ValueError(f"out of range: k {k}, orders {orders}")
    votes = _Votes(comparisons)
    place = {system: i for i, system in enumerate(votes.systems)}
    first = np.array([place[each.first] for each in comparisons])
    second = np.array([place[each.second] for each in comparisons])
    scores = np.array([{"first": 1.0, "second": 0.0, "tie": 0.5}[each.winner] for each in comparisons])
    order = np.arange(len(comparisons))[None]  # [orders, votes]
    if orders > 1:
        order = np.random.default_rng(seed).permuted(np.repeat(order, orders, axis=0), axis=1)
    ratings = np.full((len(order), len(place)), BASE)
    rows = np.arange(len(order))
    for step in order.T:  # [orders], each order's next vote
        one, other = first[step], second[step]
        expected = 1 / (1 + 10 ** ((ratings[rows, other] - ratings[rows, one]) / SCALE))
        change = k * (scores[step] - expected)
        ratings[rows, one] += change
        ratings[rows, other] -= change
    return dict(zip(votes.systems, ratings.mean(0).tolist()))


class _Votes:
    """Comparisons as numbers, equal ones of a prompt counted once with their number."""

    def __init__(self, comparisons: Sequence[Comparison]) -> None:
        if not comparisons:
            raise BadRequest("There are no judgements to rate systems by.", "Judge some items first.")
        for each in comparisons:
            if each.first == each.second:
                raise BadRequest(f"'{each.first}' is compared with itself on a prompt.", "Compare different systems.")
        self.systems = sorted({name for each in comparisons for name in (each.first, each.second)})
        self.prompts = list(dict.fromkeys(each.prompt for each in comparisons))
        count = len(self.systems)
        place = {system: i for i, system in enumerate(self.systems)}
        number = {prompt: i for i, prompt in enumerate(self.prompts)}
        seen: Counter[tuple[int, int]] = Counter()  # prompt and cell
        for each in comparisons:
            one, other = place[each.first], place[each.second]
            if each.winner == "tie":
                cell = count * count + min(one, other) * count + max(one, other)
            else:
                winner, loser = (one, other) if each.winner == "first" else (other, one)
                cell = winner * count + loser
            seen[number[each.prompt], cell] += 1
        self._prompt = np.array([prompt for prompt, _ in seen])
        self._cell = np.array([cell for _, cell in seen])
        self._times = np.array(list(seen.values()), dtype=np.float64)

    def counts(self, weights: Array) -> tuple[Array, Array]:
        """Wins of each system over each and, symmetric, ties, both [R, n, n], for weights of prompts, [R, P]."""
        count = len(self.systems)
        cells = 2 * count * count
        rows = [np.bincount(self._cell, self._times * row[self._prompt], minlength=cells) for row in weights]
        found = np.stack(rows).astype(np.float64).reshape(-1, 2, count, count)
        return found[:, 0], found[:, 1] + found[:, 1].transpose(0, 2, 1)


def _refuse_groups(votes: _Votes) -> None:
    """Refuse systems that no chain of comparisons connects."""
    wins, ties = votes.counts(np.ones((1, len(votes.prompts))))
    compared = wins + wins.transpose(0, 2, 1) + ties > 0
    reached = _reachable(compared)[0]
    groups = {tuple(system for system, there in zip(votes.systems, row) if there) for row in reached}
    if len(groups) > 1:
        named = "; ".join(", ".join(group) for group in sorted(groups))
        raise BadRequest(
            f"The systems fall into {len(groups)} groups that were never compared with each other: {named}.",
            "Ratings across groups would be made up; compare systems of different groups, or rate each group alone.",
        )


def _reachable(edges: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which nodes can be reached from which, [R, n, n]; each from itself."""
    found: NDArray[np.bool_] = edges | np.eye(edges.shape[-1], dtype=bool)
    for _ in range(max(1, math.ceil(math.log2(edges.shape[-1])))):
        steps = found.astype(np.float32)
        found = np.greater(np.matmul(steps, steps), 0)
    return found


def _has_maximum(wins: Array, ties: Array) -> NDArray[np.bool_]:
    """Whether the likelihood has a maximum, [R], of wins and ties [R, n, n].

    It has none if it never falls along some direction (δ, τ) of (β, log ν). With τ = 0 that is δ_i ≥ δ_j wherever i
    beat j, and equality where they tied: excluded if wins, and ties both ways, connect every system with every other.
    With τ > 0, scaled to ½, it is δ_i − δ_j ≥ 1 wherever i beat j and |δ_i − δ_j| ≤ 1 where they tied: excluded if
    these differences contradict each other, a cycle of negative length in their graph. τ < 0 is excluded by any tie.
    """
    found = _reachable((wins > 0) | (ties > 0)).all((1, 2))
    # δ_j − δ_i ≤ length of the edge from i to j.
    length = np.where(wins > 0, -1.0, np.where(ties > 0, 1.0, np.inf))
    for middle in range(length.shape[-1]):
        length = np.minimum(length, length[:, :, middle, None] + length[:, None, middle, :])
        length = np.maximum(length, -1e6)  # round a negative cycle lengths would double each time
    contradiction = (np.diagonal(length, axis1=1, axis2=2) < 0).any(1)
    known: NDArray[np.bool_] = np.logical_and(found, contradiction | ~np.any(ties > 0, axis=(1, 2)))
    return known


def _fitted(votes: _Votes, weights: Array, prior: float) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Strengths β [R, n], their mean 0, ν [R], and where the prior was needed [R], for weights of prompts [R, P]."""
    wins, ties = votes.counts(weights)
    count = wins.shape[-1]
    penalized = ~_has_maximum(wins, ties)
    if penalized.any():
        share = prior / (count - 1) * (1 - np.eye(count))
        wins[penalized] += share
        tied = penalized & (ties > 0).any((1, 2))
        ties[tied] += share
    strengths, ties_ = _maximized(wins, ties)
    return strengths, ties_, penalized


def _maximized(wins: Array, ties: Array) -> tuple[Array, Array]:
    """The maximum of the likelihood by Newton's method, halving steps that don't lead upwards: β [R, n] and ν [R].

    Half the square of the sum of β is taken off, which holds the mean at 0 and changes nothing else.
    """
    rows, count, _ = wins.shape
    tied: NDArray[np.bool_] = np.any(ties > 0, axis=(1, 2))
    games = wins + wins.transpose(0, 2, 1) + ties
    balance = (wins - wins.transpose(0, 2, 1)).sum(2) / 2  # [R, n]
    several = ties.sum((1, 2)) / 2
    place = np.zeros((rows, count + 1))  # β, log ν
    value = _likelihood(place, wins, ties, tied)
    for _ in range(_MOST_STEPS):
        win, tie = _outcomes(place, tied)
        lean = (win - win.transpose(0, 2, 1)) / 2  # mean of ½ for a win, −½ for a loss
        gradient = np.concatenate(
            [
                balance - (games * lean).sum(2) - place[:, :-1].sum(1, keepdims=True),
                (several - (games * tie).sum((1, 2)) / 2)[:, None],
            ],
            axis=1,
        )
        spread = games * ((1 - tie) / 4 - lean**2)  # variance of the same, of all games
        curvature = np.ones((rows, count + 1, count + 1))  # minus the second derivative; the ones hold the mean
        curvature[:, :-1, :-1] += np.eye(count) * spread.sum(2)[:, :, None] - spread
        curvature[:, :-1, -1] = curvature[:, -1, :-1] = -(games * tie * lean).sum(2)
        # Where nothing tied, log ν stays where it is.
        curvature[:, -1, -1] = np.where(tied, (games * tie * (1 - tie)).sum((1, 2)) / 2, 1.0)
        step = np.linalg.solve(curvature, gradient[:, :, None])[:, :, 0]
        if np.abs(step).max() < _CONVERGED:
            return place[:, :-1], np.where(tied, np.exp(place[:, -1]), 0.0)
        for _ in range(_HALVINGS):
            reached = _likelihood(place + step, wins, ties, tied)
            worse = reached < value - 1e-12 * np.abs(value)
            if not worse.any():
                break
            step[worse] /= 2
        place, value = place + step, reached
    raise Failure("The ratings' likelihood has no maximum that Newton's method finds.", "Judge more items.")


def _outcomes(place: Array, tied: NDArray[np.bool_]) -> tuple[Array, Array]:
    """Probabilities that i beats j, and that the two tie, [R, n, n]."""
    half, log_nu, whole = _logits(place, tied)
    tie = np.where(tied[:, None, None], np.exp(log_nu - whole), 0.0)
    return np.exp(half - whole), tie


def _logits(place: Array, tied: NDArray[np.bool_]) -> tuple[Array, Array, Array]:
    """(β_i − β_j) / 2, log ν, and the logarithm of D / √(π_i π_j)."""
    strengths, log_nu = place[:, :-1], place[:, -1, None, None]
    half = (strengths[:, :, None] - strengths[:, None, :]) / 2
    whole = np.logaddexp(half, -half)
    return half, log_nu, np.where(tied[:, None, None], np.logaddexp(whole, log_nu), whole)


def _likelihood(place: Array, wins: Array, ties: Array, tied: NDArray[np.bool_]) -> Array:
    half, log_nu, whole = _logits(place, tied)
    found: Array = (wins * (half - whole) + ties * (log_nu - whole) / 2).sum((1, 2)) - place[:, :-1].sum(1) ** 2 / 2
    return found


def _points(votes: _Votes, strengths: Array, anchor: str | None) -> Array:
    zero = strengths.mean(1) if anchor is None else strengths[:, votes.systems.index(anchor)]
    points: Array = BASE + SCALE / math.log(10) * (strengths - zero[:, None])
    return points


def _resampled(votes: _Votes, anchor: str | None, prior: float, resamples: int, seed: int) -> tuple[Array, int]:
    """Ratings of each draw of prompts, [resamples, n], and how many draws needed the prior."""
    generator = np.random.default_rng(seed)
    prompts, needed = len(votes.prompts), 0
    batch = max(1, _BATCH_ELEMENTS // max(len(votes.systems) ** 2, prompts))
    found = []
    for start in range(0, resamples, batch):
        size = min(batch, resamples - start)
        weights = generator.multinomial(prompts, np.full(prompts, 1 / prompts), size=size).astype(np.float64)
        strengths, _, penalized = _fitted(votes, weights, prior)
        needed += int(penalized.sum())
        found.append(_points(votes, strengths, anchor))
    return np.concatenate(found), needed


def _ratings(
    systems: Sequence[str], points: Array, drawn: Array | None, confidence: float, wins: Array, draws: Array
) -> list[Rating]:
    tail = (1 - confidence) / 2
    low, high = (None, None) if drawn is None else np.quantile(drawn, [tail, 1 - tail], axis=0)
    found = []
    for i, system in enumerate(systems):
        interval = None if low is None or high is None else (float(low[i]), float(high[i]))
        rank = None if low is None or high is None else 1 + int((low > high[i]).sum())
        counts = (int(wins[i].sum()), int(draws[i].sum()), int(wins[:, i].sum()))
        found.append(Rating(system, float(points[i]), interval, rank, *counts))
    return sorted(found, key=lambda each: (-each.rating, each.system))
