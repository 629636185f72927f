"""A model's verdicts on pairs of answers: both orders asked, a verdict made of the two, and how far to trust the judge.

Models prefer a place: the answer shown first, mostly. So each pair is asked in both orders. By `strict` an answer wins
only if it wins in both, and anything else is a tie; by `average` the mean of the two preferences decides (both Zheng et
al., 2023, "Judging LLM-as-a-Judge with MT-Bench and Chatbot Arena", section 3.4). A pair on which one of the orders
gave no verdict has none.

Swapping makes verdicts even, not right: a judge that looks at nothing but the place calls everything a tie. How often
it says the same in both orders is therefore reported with every result (their table 2); tossing a coin twice agrees in
half of the pairs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from posttrain.bench.judges import Contest, Judge
from posttrain.bench.ratings import Winner
from posttrain.bench.task_types import Effort
from posttrain.bench.win_rates import wilson_interval
from posttrain.models.language_model import LanguageModel

Swap = Literal["strict", "average"]

# Agreement of two tosses of a coin.
_COIN = 0.5


@dataclass(frozen=True)
class Ruling:
    """How preferences become verdicts.

    Attributes:
        swap: ``strict``: a win must hold in both orders; ``average``: the mean preference decides.
        margin: Preferences at most so far from ½ are a tie.
    """

    swap: Swap = "strict"
    margin: float = 0.0

    def side(self, preference: float) -> Winner:
        """Which answer a preference for the first one chooses."""
        if abs(preference - 0.5) <= self.margin:
            return "tie"
        return "first" if preference > 0.5 else "second"

    def winner(self, preferences: Sequence[float | None]) -> Winner | None:
        """The verdict on a pair.

        Args:
            preferences: How strongly its first answer is preferred, in each order asked.

        Returns:
            None if an order gave no verdict.
        """
        known = [each for each in preferences if each is not None]
        if len(known) < len(preferences):
            return None
        if self.swap == "average":
            return self.side(sum(known) / len(known))
        sides = {self.side(each) for each in known}
        return sides.pop() if len(sides) == 1 else "tie"


@dataclass(frozen=True)
class Judged:
    """What a judge made of a pair.

    Attributes:
        winner: The better answer; None if there is no verdict.
        preferences: How strongly the pair's first answer is preferred: where it is shown first, and where it is shown
            second; one number from judges that don't see both answers at once.
        notes: What each order's opinion was read from, JSON-able.
    """

    winner: Winner | None
    preferences: list[float | None]
    notes: list[dict[str, Any]]


@dataclass(frozen=True)
class Consistency:
    """How a judge's verdicts depend on the order; shares of the pairs that have a verdict in both.

    Attributes:
        pairs: How many that are.
        consistent: The same verdict in both orders.
        interval: Wilson's 95 % interval of that share.
        biased_first: The answer shown first, both times.
        biased_second: The answer shown second, both times.
        preference_for_first: Mean preference for the answer shown first; ½ favours no place.
    """

    pairs: int
    consistent: float
    interval: tuple[float, float]
    biased_first: float
    biased_second: float
    preference_for_first: float

    def warning(self) -> str | None:
        """What speaks against believing the judge, a sentence; None if nothing does."""
        share, place = max((self.biased_first, "first"), (self.biased_second, "second"))
        if self.interval[0] <= _COIN:
            by_place = f"; in {share:.0%} it chose the answer shown {place} both times" if share else ""
            return (
                f"The judge gave the same verdict in both orders in only {self.consistent:.0%} of {self.pairs} pairs"
                f"{by_place}. Two tosses of a coin do as well (50%), so the verdicts say little about the answers."
            )
        if share > 0.2:
            return f"The judge chose the answer shown {place} both times in {share:.0%} of {self.pairs} pairs."
        return None

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {**asdict(self), "interval": list(self.interval)}


def judged(
    judge: Judge,
    model: LanguageModel,
    contests: Sequence[Contest],
    *,
    criterion: str,
    ruling: Ruling,
    effort: Effort,
) -> list[Judged]:
    """Judge pairs of answers, each in both orders if the judge sees both at once.

    Args:
        judge: How the model is asked.
        model: A model that the judge has prepared.
        contests: The pairs; at least one.
        criterion: By what.
        ruling: How preferences become verdicts.
        effort: How the work is cut up.
    """
    orders = [list(contests)] + ([[each.swapped() for each in contests]] if judge.sees_both else [])
    opinions = judge.opinions(model, [each for order in orders for each in order], criterion, effort)
    found = []
    for i in range(len(contests)):
        own = opinions[i :: len(contests)]
        preferences = [own[0].preference]
        if len(own) > 1:
            swapped = own[1].preference
            preferences.append(None if swapped is None else 1 - swapped)
        found.append(Judged(ruling.winner(preferences), preferences, [each.record for each in own]))
    return found


def consistency(preferences: Iterable[Sequence[float | None]], margin: float = 0.0) -> Consistency | None:
    """How a judge's verdicts depend on the order.

    Args:
        preferences: As in `Judged`, of each pair.
        margin: As in `Ruling`.

    Returns:
        None if no pair has a verdict in two orders.
    """
    asked = (each for each in preferences if len(each) == 2)
    both = [(one, other) for one, other in asked if one is not None and other is not None]
    if not both:
        return None
    side = Ruling(margin=margin).side
    sides = Counter((side(one), side(other)) for one, other in both)
    same = sum(count for (one, other), count in sides.items() if one == other)
    return Consistency(
        pairs=len(both),
        consistent=same / len(both),
        interval=wilson_interval(same / len(both), len(both)),
        # In the second order the pair's second answer is the one shown first.
        biased_first=sides["first", "second"] / len(both),
        biased_second=sides["second", "first"] / len(both),
        preference_for_first=sum(one + 1 - other for one, other in both) / (2 * len(both)),
    )
