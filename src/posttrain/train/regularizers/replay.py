"""Replay: general text is learned along with the task, so that what it teaches isn't overwritten (Robins, 1995).

Each optimizer step also learns to predict the tokens of some records of another data set (rehearsal; for language
models Scialom et al., 2022, who replay 1 % of the old data, and Ibrahim et al., 2024, who find 5 % to suffice where the
new data are near the old ones). The loss of a step is

    mean over the task's units + weight * mean over the replayed tokens

whatever the numbers of both, so `share` decides how much is seen and `weight` how much it counts.
"""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar

from pydantic import Field

from posttrain.core.errors import BadRequest
from posttrain.data import dataset
from posttrain.data.collate import Batches
from posttrain.data.dataset import Dataset
from posttrain.train.objectives import Encoding
from posttrain.train.objectives.language_modeling import LanguageModeling
from posttrain.train.regularizers import Beginning, Extra, Regularizer, Term


class Replay(Regularizer):
    """Learn general data along with the task."""

    reads: ClassVar[tuple[str, ...]] = ("data",)

    data: str
    """The data that are replayed: a file, hub:owner/name, builtin:NAME (builtin:prose is general text), or the name of
    an earlier step that left records."""

    kind: str | None = None
    """Kind of records; found out from the columns when not given."""

    columns: dict[str, str] = {}
    """Maps the names posttrain uses (text, prompt, completion …) to the file's own."""

    limit: int | None = Field(None, ge=1)
    """Use only the first so many records."""

    share: float = Field(0.25, gt=0, lt=1)
    """Which part of a step's records are replayed ones: of 6 and 2, 0.25. At least one is."""

    records: int | None = Field(None, ge=1)
    """Replayed records in a step, instead of a share."""

    weight: float = Field(1.0, gt=0)
    """How much their mean loss counts, against the task's."""

    encoding: Encoding = Encoding(max_length=256, too_long="split")
    """How records become tokens; long texts are cut into records of 256."""

    def begin(self, beginning: Beginning) -> Term:
        """Encode the data.

        Raises:
            BadRequest: If the network doesn't predict tokens, or the data aren't text.
        """
        model = beginning.model
        if not model.is_causal:
            raise BadRequest(
                f"replay learns to predict tokens, which {type(model.network).__name__} doesn't.",
                "Take l2_sp, which needs no data.",
            )
        lengths = [each for each in (self.encoding.max_length, model.context_length) if each is not None]
        encoding = self.encoding.model_copy(update={"max_length": min(lengths, default=None)})
        objective = LanguageModeling()
        items = objective.encode(self._records, model, encoding)
        count = self.records or max(1, round(beginning.batch_size * self.share / (1 - self.share)))
        batches = Batches(
            items,
            min(count, len(items)),
            beginning.tokens_per_pass,
            seed=beginning.seed,
            drop_last=True,  # an epoch's end would make a step with fewer
            collate=lambda part: objective.collate(part).to(model.device),
        )
        term = Term()
        term.weight, term.extra = self.weight, Extra(objective, batches)
        return term

    def further_data(self) -> Dataset:
        """The replayed records."""
        return self._records

    @cached_property
    def _records(self) -> Dataset:
        return dataset.read(self.data, kind=self.kind, columns=self.columns, limit=self.limit)
