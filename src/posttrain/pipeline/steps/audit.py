"""audit: what a data set will teach this model before anything is trained: rows, tokens, and which carry loss."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from posttrain.core.catalog import build, terms
from posttrain.core.errors import BadRequest
from posttrain.data import audit as auditing
from posttrain.data import dataset
from posttrain.data.chat_template import TrainOn
from posttrain.data.encoded import Encoded
from posttrain.models.heads import has_head, label_names
from posttrain.models.language_model import LanguageModel
from posttrain.models.sources import NETWORK_CLASSES
from posttrain.pipeline.steps import Context, Outcome, Step
from posttrain.pipeline.views import View, facts, masked_text, note
from posttrain.train.objectives import Encoding

_LABELS = 12  # shown


class Audit(Step):
    """Look at the training mask of a data set."""

    data: str
    """The data set: a file, hub:owner/name or builtin:NAME."""

    kind: str | None = None
    """Kind of records; found out from the columns when not given."""

    columns: dict[str, str] = {}
    """Maps the names posttrain uses (prompt, completion …) to the file's own."""

    split: str | None = None
    """Split of a hub data set."""

    max_length: int | None = Field(None, ge=2)
    """Most tokens a record may have; the model's context when not given."""

    train_on: TrainOn = "completion"
    """Learn the completion (the assistant's messages), or all tokens."""

    chat: bool | None = None
    """Render through the chat template; by default messages are, and prompt + completion are not."""

    def inputs(self, context: Context) -> dict[str, Any]:
        """The data's hash."""
        records = self._read()
        return {"data": {"source": records.source, "hash": records.hash}}

    def _read(self) -> dataset.Dataset:
        return dataset.read(self.data, kind=self.kind, columns=self.columns, split=self.split)

    def run(self, context: Context) -> Outcome:
        """Audit and show the first record with its mask."""
        model = context.model
        records, limit = self._read(), self.max_length or model.context_length
        encoded = _as_its_task_reads(model, records)
        found = auditing.audit(
            records, model.tokenizer, max_length=limit, train_on=self.train_on, chat=self.chat, encoded=encoded
        )
        if found.loss_tokens is not None and model.network.get_output_embeddings() is None:
            raise BadRequest(
                f"{context.model_name} is a {type(model.network).__name__}, which predicts no tokens, and {found.kind} "
                "records teach nothing else.",
                "Give records with labels or tags, or audit them with a language model.",
            )
        result = found.to_dict()
        pieces = result.pop("samples", [])
        shown = {
            "records": found.rows,
            "tokens": found.tokens,
            "tokens that carry loss": found.loss_tokens,
            "share that carries loss": found.loss_share,
            "longest record (tokens)": found.longest,
            "median record (tokens)": found.median_length,
            f"records longer than {limit} tokens": found.truncated,
            "records without loss": found.no_loss,
            "repeated records": found.duplicates,
        }
        views = [facts("What will be learned", shown)]
        if encoded is not None:
            views.append(_labels(model))
        if found.loss_tokens == 0:
            views.append(note("No token carries loss: training on this set would change nothing.", "warning"))
        if found.truncated:
            views.append(note(f"{found.truncated} records are longer than {limit} tokens.", "warning"))
        if pieces:
            views.append(masked_text("The first record as the model sees it", pieces[0]))
        share = "" if found.loss_share is None else f", {found.loss_share:.0%} of the tokens carry loss"
        return Outcome(result, views, headline=f"{found.rows} records{share}")


def _as_its_task_reads(model: LanguageModel, records: dataset.Dataset) -> list[Encoded] | None:
    """What the objective of a network with a head for a task makes of the records; None for all other networks.

    Raises:
        BadRequest: If the records aren't of a kind it can learn from, or have labels that the network doesn't know.
    """
    learned = set(terms("objective"))
    task = next((name for name in NETWORK_CLASSES if name in learned and has_head(model.network, name)), None)
    if task is None:
        return None
    encoded: list[Encoded] = build("objective", task).encode(records, model, Encoding())
    return encoded


def _labels(model: LanguageModel) -> View:
    names = label_names(model.network)
    shown = ", ".join(names[:_LABELS]) + (f" and {len(names) - _LABELS} more" if len(names) > _LABELS else "")
    return note(
        f"{type(model.network).__name__} learns labels, so no token carries loss by itself. Its labels: {shown}."
    )
