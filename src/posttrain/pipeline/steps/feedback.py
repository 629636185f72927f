"""feedback: judged pairs brought together as preference data, with a watch on what the judges may prefer by habit.

The share of pairs in which the longer answer won is told because a policy trained on such pairs learns to be long
(Singhal et al., A Long Way to Go: Investigating Length Correlations in RLHF, 2023). Judging itself is
`posttrain feedback`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pydantic import Field

from posttrain.align.agreement import RELIABLE, TENTATIVE
from posttrain.align.feedback import OVERALL, FeedbackStore, Verdicts, write_preferences
from posttrain.align.feedback_items import preferences_of
from posttrain.core.errors import BadRequest
from posttrain.data import dataset
from posttrain.data.dialogue import as_text
from posttrain.data.record import Preference
from posttrain.pipeline.steps import Context, Outcome, Step
from posttrain.pipeline.views import View, facts, note, samples

PAIRS_FILE = "pairs.jsonl"
STORE_FILE = "feedback.db"


class Feedback(Step):
    """Turn people's judgements into preference pairs."""

    pairs: str | None = None
    """Judged pairs: a file, hub:owner/name or builtin:NAME; the built-in ones when neither pairs nor store is given."""

    columns: dict[str, str] = {}
    """Maps the names posttrain uses (prompt, chosen, rejected) to the file's own."""

    store: str | None = None
    """A file that `posttrain feedback` keeps; what it holds is added to the pairs."""

    criterion: str = Field(OVERALL, min_length=1)
    """The criterion of the judgements: overall, helpful, harmless, honest …"""

    samples: int = Field(6, ge=0)
    """How many pairs the report shows."""

    def inputs(self, context: Context) -> dict[str, Any]:
        """Hashes of the pairs and of the store's judgements."""
        found: dict[str, Any] = {}
        if (records := self._records()) is not None:
            found["data"] = {"source": records.source, "hash": records.hash}
        if self.store is not None:
            with FeedbackStore(self.store, create=False) as store:
                found["store"] = {"source": self.store, "hash": store.hash()}
        return found

    def _records(self) -> dataset.Dataset | None:
        if self.pairs is None and self.store is not None:
            return None
        return dataset.read(self.pairs or "builtin:preferences", kind="preference", columns=self.columns)

    def run(self, context: Context) -> Outcome:
        """Collect, decide by majority, write the pairs and describe them."""
        with self._collected(context) as store:
            verdicts = store.export(self.criterion)
            annotators = store.annotators(self.criterion)
            agreement = store.agreement(self.criterion)
        pairs = verdicts.preferences
        if not pairs:
            raise BadRequest(
                f"No pair has a verdict by the criterion '{self.criterion}'.",
                f"{verdicts.ties} are ties and {verdicts.disagreements} have no majority.",
            )
        write_preferences(pairs, context.folder / PAIRS_FILE)
        lengths = [(len(as_text(pair.chosen)), len(as_text(pair.rejected))) for pair in pairs]
        unequal = [chosen > rejected for chosen, rejected in lengths if chosen != rejected]
        result = {
            "pairs": len(pairs),
            "prompts": len({as_text(pair.prompt) for pair in pairs}),
            "annotators": len(annotators),
            "agreement": agreement,
            "ties": verdicts.ties,
            "disagreements": verdicts.disagreements,
            "chosen_characters": sum(chosen for chosen, _ in lengths) / len(pairs),
            "rejected_characters": sum(rejected for _, rejected in lengths) / len(pairs),
            "longer_chosen_share": sum(unequal) / len(unequal) if unequal else None,
            "file": PAIRS_FILE,
            "store": STORE_FILE,
        }
        views = self._views(result, verdicts, unequal)
        return Outcome(result, views, headline=_headline(result), records=PAIRS_FILE)

    @contextmanager
    def _collected(self, context: Context) -> Iterator[FeedbackStore]:
        """The step's own store with everything in it."""
        with FeedbackStore(context.folder / STORE_FILE) as own:
            if (records := self._records()) is not None:
                own.import_preferences(preferences_of(records), records.source, self.criterion)
            if self.store is not None:
                with FeedbackStore(self.store, create=False) as given:
                    own.merge(given)
            yield own

    def _views(self, result: dict[str, Any], verdicts: Verdicts, unequal: Sequence[bool]) -> list[View]:
        hidden = ("file", "store")
        shown = {key.replace("_", " "): value for key, value in result.items() if key not in hidden}
        shown["characters of chosen answers"] = shown.pop("chosen characters")
        shown["characters of rejected answers"] = shown.pop("rejected characters")
        shown["share of pairs in which the longer answer won"] = shown.pop("longer chosen share")
        views = [facts("Feedback", {key: value for key, value in shown.items() if value is not None})]
        views += [note(text, "warning") for text in _warnings(result, unequal)]
        if self.samples:
            rows = [_row(pair) for pair in verdicts.preferences[: self.samples]]
            views.append(samples("What was preferred", ["prompt", "chosen", "rejected"], rows))
        return views


def _row(pair: Preference) -> list[str]:
    return [as_text(pair.prompt), as_text(pair.chosen), as_text(pair.rejected)]


def _warnings(result: dict[str, Any], unequal: Sequence[bool]) -> Iterator[str]:
    agreement, share = result["agreement"], result["longer_chosen_share"]
    if agreement is not None and agreement < RELIABLE:
        use = "for tentative conclusions only" if agreement >= TENTATIVE else "for no conclusions"
        yield f"The annotators agree with Krippendorff's α = {agreement:.2f}, which is enough {use}."
    # By chance the share lies within two standard errors of a half, 2 · √(¼ / n), in 95 of 100 sets.
    if share is not None and share > 0.5 + 1 / math.sqrt(len(unequal)):
        yield f"The longer answer won in {share:.0%} of pairs: a model may learn to be long instead of good."


def _headline(result: dict[str, Any]) -> str:
    count = result["annotators"]
    agreed = "" if result["agreement"] is None else f", agreement α = {result['agreement']:.2f}"
    return f"{result['pairs']} pairs from {count} annotator{'' if count == 1 else 's'}{agreed}"
