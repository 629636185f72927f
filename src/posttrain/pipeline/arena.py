"""From a feedback store to a league: who judges, what the votes say of the systems, and how far judges agree.

A store may hold judgements of people and of models, whose names begin with ``model:``. Where nobody says whose votes
count, people's do if there are any. Models that judge are compared with the people: on the same pairs of answers, with
what more than half of these say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Any

from posttrain import __version__
from posttrain.align.agreement import cohen_kappa, krippendorff_alpha
from posttrain.align.feedback import OVERALL, FeedbackStore, Question
from posttrain.bench.judges import Contest, Judge
from posttrain.bench.judging import Consistency, Ruling, consistency, judged
from posttrain.bench.ratings import Comparison, Ratings, online_elo, rate
from posttrain.bench.task_types import Effort
from posttrain.bench.win_rates import PositionBias, pair_records, position_bias
from posttrain.core.catalog import dump, term_of
from posttrain.core.errors import BadRequest, did_you_mean
from posttrain.core.events import message, task
from posttrain.core.settings import fingerprint
from posttrain.data.dialogue import as_text
from posttrain.models.language_model import LanguageModel

MODEL = "model:"
"""How the name of an annotator begins that is a model."""

# Pairs judged before their verdicts are written down; what a killed process loses.
_PAIRS_AT_ONCE = 16

_PREFERENCES = "preferences"
_SIGNIFICANT = 0.05


def judge_items(
    store: FeedbackStore,
    judge: Judge,
    model: LanguageModel,
    annotator: str,
    *,
    criterion: str = OVERALL,
    ruling: Ruling,
    effort: Effort,
    limit: int | None = None,
    seed: int = 0,
) -> int:
    """Let a model judge what it hasn't judged yet of a store's pairs.

    Verdicts are on disk a few pairs at a time, so an interrupted call is gone on with by the same call. Pairs on which
    the model gives no verdict stay open; they are counted in a warning, as are items with more than two answers.

    Args:
        store: Where pairs lie and verdicts go.
        judge: How the model is asked.
        model: Who judges; the judge may change it.
        annotator: The name under which verdicts are kept, see `MODEL`.
        criterion: By what.
        ruling: How preferences become verdicts.
        effort: How the work is cut up.
        limit: Judge at most so many.
        seed: Of the order.

    Returns:
        How many pairs got a verdict.

    Raises:
        BadRequest: If the store holds no items, or the model can't judge.
    """
    if not store.counts()[0]:
        raise BadRequest(f"{store.path} holds nothing to judge.", "Add answers first: posttrain arena add.")
    judge.prepare(model)
    pending = store.pending(annotator, criterion, seed)
    pairs = [question for question in pending if len(question.answers) == 2]
    if len(pairs) < len(pending):
        message(f"{len(pending) - len(pairs)} items left out: more than two answers.", level="warning")
    pairs = pairs[:limit]
    silent = too_long = 0
    unread = ""
    with task("Judge", total=len(pairs), unit="pairs") as progress:
        for start in range(0, len(pairs), _PAIRS_AT_ONCE):
            part = pairs[start : start + _PAIRS_AT_ONCE]
            contests = [_contest(question) for question in part]
            found = judged(judge, model, contests, criterion=criterion, ruling=ruling, effort=effort)
            for question, each in zip(part, found):
                if each.winner is None:
                    silent += 1
                    too_long += any(note.get("too_long") for note in each.notes)
                    unread = unread or next((note["text"] for note in each.notes if note.get("text")), "")
                    continue
                ranks = {"first": (1, 2), "second": (2, 1), "tie": (1, 1)}[each.winner]
                record = {_PREFERENCES: each.preferences, "notes": each.notes, "margin": ruling.margin}
                store.judge(question, [ranks[place] for place in question.order], ordered=False, record=record)
            progress.advance(len(part))
    if silent:
        why = f" ({too_long} too long for the model)" if too_long else ""
        said = f" The judge wrote, for example: {unread[:120]!r}" if unread else ""
        message(f"{silent} of {len(pairs)} pairs got no verdict{why}.{said}", level="warning")
    return len(pairs) - silent


def _contest(question: Question) -> Contest:
    """The question with its answers in the store's order, which is what the verdict's record is about."""
    first, second = (as_text(question.answers[question.order.index(place)]) for place in (0, 1))
    return Contest(question.prompt, first, second)


def model_annotator(reference: str, judge: Judge, ruling: Ruling) -> str:
    """The name under which a model's verdicts are kept; other settings have another name, so that none are mixed."""
    settings = fingerprint([dump(judge), asdict(ruling)])[:6]
    return f"{MODEL}{reference}/{term_of(judge)}-{settings}"


def consistency_of(store: FeedbackStore, annotator: str, criterion: str = OVERALL) -> Consistency | None:
    """How a model's verdicts depend on the order of the answers; None for people, and judges that see one at a time."""
    records = [record for record in store.records(annotator, criterion) if _PREFERENCES in record]
    margin = max((float(record.get("margin", 0)) for record in records), default=0.0)
    return consistency((record[_PREFERENCES] for record in records), margin)


def agreement_with_people(store: FeedbackStore, annotator: str, criterion: str = OVERALL) -> dict[str, Any] | None:
    """How far a model's verdicts are those of the people who judged the same pairs.

    Returns:
        `pairs` that it and a majority of people have judged; `accuracy`, the share with the same verdict, ties being
        one; `decisive`, the pairs on which both name a winner, and `decisive_accuracy` on these; Cohen's `kappa`; the
        people's own Krippendorff's `people_alpha` on all they judged. None if there is no such pair.
    """
    choices = store.choices(criterion)
    people = {pair: _people(given) for pair, given in choices.items()}
    both = []
    for pair, given in choices.items():
        said = Counter(people[pair]).most_common(1)
        if annotator in given and said and 2 * said[0][1] > len(people[pair]):
            both.append((given[annotator], said[0][0]))
    if not both:
        return None
    decisive = [(model, person) for model, person in both if "tie" not in (model, person)]
    return {
        "pairs": len(both),
        "accuracy": sum(model == person for model, person in both) / len(both),
        "decisive": len(decisive),
        "decisive_accuracy": sum(m == p for m, p in decisive) / len(decisive) if decisive else None,
        "kappa": cohen_kappa([model for model, _ in both], [person for _, person in both]),
        "people_alpha": krippendorff_alpha(people.values()),
    }


def _people(given: Mapping[str, Any]) -> list[Any]:
    return [choice for annotator, choice in given.items() if not annotator.startswith(MODEL)]


def who_counts(store: FeedbackStore, criterion: str, annotators: Collection[str] | None) -> list[str]:
    """Whose votes count: those named, else all people who judged, else all models that did.

    Raises:
        BadRequest: If one of those named, or anybody at all, hasn't judged by the criterion.
    """
    known = store.annotators(criterion)
    if not known:
        raise BadRequest(
            f"Nobody has judged in {store.path} by the criterion '{criterion}'.",
            "Ask people with posttrain feedback, or a model with posttrain judge.",
        )
    for name in annotators or ():
        if name not in known:
            raise BadRequest(f"{name} has judged nothing by the criterion '{criterion}'.", did_you_mean(name, known))
    people = [name for name in known if not name.startswith(MODEL)]
    return sorted(set(annotators)) if annotators else people or known


def league(
    store: FeedbackStore,
    *,
    criterion: str = OVERALL,
    annotators: Collection[str] | None = None,
    anchor: str | None = None,
    k: float = 32.0,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """What a store's judgements say about the systems that wrote the answers.

    Args:
        store: With items whose authors are known.
        criterion: By what was judged.
        annotators: Whose votes count; see `who_counts`.
        anchor: See `bench.ratings.rate`.
        k: See `bench.ratings.online_elo`.
        resamples: See `bench.ratings.rate`.
        seed: Of the draws.

    Returns:
        JSON-able: `systems` (a row each, the best first), `pairs` (a row each), `votes`, `prompts`, `annotators`,
        `agreement`, `position_bias`, `judges` (a row a model that judged), `signature` and `notes`, sentences on what
        to mind.

    Raises:
        BadRequest: If there is no vote on two systems, or one of `rate`'s reasons.
    """
    counted = who_counts(store, criterion, annotators)
    votes = [vote for vote in store.votes(criterion) if vote.annotator in counted]
    if not votes:
        raise BadRequest(
            f"Nobody knows who wrote the answers judged in {store.path}.", "Add them with posttrain arena add."
        )
    comparisons = [Comparison(v.prompt, v.first, v.second, v.choice, v.ordered) for v in votes]
    rated = rate(comparisons, anchor=anchor, resamples=resamples, seed=seed)
    running = online_elo(comparisons, k=k, seed=seed)
    bias = position_bias(comparisons)
    judges = judges_of(store, criterion)
    units = [[*given.values()] for given in store.choices(criterion, counted).values()]
    settings = {"anchor": anchor or "mean", "k": f"{k:g}", "resamples": resamples, "seed": seed}
    made = {"criterion": criterion, "votes": fingerprint([asdict(vote) for vote in votes])[:12], **settings}
    return {
        "criterion": criterion,
        "annotators": counted,
        "votes": rated.votes,
        "prompts": rated.prompts,
        "systems": [{**asdict(each), "online_elo": running[each.system]} for each in rated.ratings],
        "pairs": [asdict(each) for each in pair_records(comparisons)],
        "tie_parameter": rated.ties,
        "agreement": krippendorff_alpha(units),
        "position_bias": asdict(bias) if bias else None,
        "prior": rated.prior,
        "penalized_resamples": rated.penalized_resamples,
        "judges": judges,
        "signature": "|".join(
            ["arena", *(f"{name}:{value}" for name, value in made.items()), f"posttrain:{__version__}"]
        ),
        "notes": [*_notes(rated, bias), *(row["warning"] for row in judges if row["warning"])],
    }


def judges_of(store: FeedbackStore, criterion: str = OVERALL) -> list[dict[str, Any]]:
    """A row for each model that judged: `annotator`, `verdicts`, its `consistency`, `people` (how far it agrees with
    them) and a `warning`, where there is reason for one.
    """
    found = []
    choices = store.choices(criterion)
    for annotator in store.annotators(criterion):
        if annotator.startswith(MODEL):
            steady = consistency_of(store, annotator, criterion)
            counts = Counter(given[annotator] == "tie" for given in choices.values() if annotator in given)
            found.append(
                {
                    "annotator": annotator,
                    "verdicts": counts.total(),
                    "ties": counts[True],
                    "consistency": steady.to_dict() if steady else None,
                    "people": agreement_with_people(store, annotator, criterion),
                    "warning": steady.warning() if steady else None,
                }
            )
    return found


def _notes(rated: Ratings, bias: PositionBias | None) -> list[str]:
    """What to mind about ratings, in sentences."""
    notes = []
    if bias is not None and bias.p_value < _SIGNIFICANT:
        notes.append(
            f"The answer shown first won {bias.share:.0%} of the votes with a winner (p = {bias.p_value:.2g}): "
            "the place drew votes, which swapping evens out and doesn't make right."
        )
    if rated.prior:
        names = ", ".join(rated.unbounded)
        why = f"{names} never won or never lost" if names else "some systems never lost to some others"
        notes.append(
            f"The likelihood has no maximum, because {why}: each system was given {rated.prior:g} further wins and as "
            "many losses, which keeps the ratings finite. Their order can be read, their distances can't."
        )
    if not rated.resamples:
        notes.append(f"{rated.prompts} prompts are too few for intervals of the ratings; take 20 at least.")
    elif rated.penalized_resamples > 0.05 * rated.resamples and not rated.prior:
        share = rated.penalized_resamples / rated.resamples
        notes.append(f"In {share:.0%} of the bootstrap's draws some system never lost; the intervals are rough.")
    return notes
