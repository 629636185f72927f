"""Conditional perplexity: exp of the mean negative log-likelihood of answers, given what comes before them.

The tokens that count are those fine-tuning learns: the completion of a prompt, the assistant's messages of a
conversation rendered by the model's chat template, each with the token that ends it. So on the same data this is exp of
the validation loss of language modelling. A record that is longer than the window is read in windows, so that nothing
is cut and an answer keeps at least window - stride tokens of what precedes it.

An encoder-decoder reads the source and its decoder writes the target; what counts are the tokens of the target as the
tokenizer makes them, the last one included. There is no window: a source or target longer than the model's context is
refused by name.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from posttrain.core import events
from posttrain.core.errors import BadRequest
from posttrain.data import dataset
from posttrain.data.answers import answer_bytes, answered
from posttrain.data.chat_template import tokenize
from posttrain.data.record import Chat, Completion
from posttrain.measure import Measurement, ModelMetric
from posttrain.measure._token_losses import exp_mean, measured, refuse_unless_causal
from posttrain.models.language_model import LanguageModel
from posttrain.models.token_losses import Nats, target_losses, token_losses, window_and_stride

# Where no window is given and the model doesn't say what it can read.
_DEFAULT_WINDOW = 2048


class ConditionalPerplexity(ModelMetric):
    """exp of the mean negative log-likelihood of answers given their prompts."""

    higher_is_better: ClassVar[bool] = False
    reads: ClassVar[tuple[str, ...]] = ("data",)

    data: str = "builtin:handbook_heldout"
    """Prompts with completions, conversations, or sources with targets: a file, hub:owner/name or builtin:NAME."""

    kind: str | None = None
    """Kind of records; found out from the columns when not given."""

    columns: dict[str, str] = {}
    """Maps the names posttrain uses (prompt, completion …) to the file's own."""

    split: str | None = None
    """Which split of the data set."""

    limit: int | None = Field(None, ge=1)
    """Use only the first so many records."""

    chat: bool | None = None
    """Render through the chat template; by default conversations are, and prompt + completion are not."""

    window: int | None = Field(None, ge=2)
    """Tokens the model reads at once of a record; the model's context when not given."""

    stride: int | None = Field(None, ge=1)
    """By how many tokens the window moves over a longer record; half the window when not given."""

    batch_size: int = Field(8, ge=1)
    """Records of 256 tokens in one pass, or as many tokens of others; changes speed and memory, never the value."""

    def inputs(self) -> dict[str, Any]:
        """The data's hash."""
        read = self._read()
        return {"data": {"source": read.source, "hash": read.hash}}

    def _read(self) -> dataset.Dataset:
        return dataset.read(self.data, kind=self.kind, columns=self.columns, split=self.split, limit=self.limit)

    def measure(self, model: LanguageModel) -> Measurement:
        """Score the answers.

        The interval is a bootstrap over records or, where there are few, over blocks of neighbouring tokens.

        Raises:
            BadRequest: If the model writes no text, the records hold no answers, or the window doesn't fit.
            Failure: If the model's logits aren't numbers.
        """
        read = self._read()
        records = [answered(record) for record in read.records]
        decodes = bool(model.network.config.is_encoder_decoder)
        found, made, unknown = self._target_losses(model, records) if decodes else self._losses(model, records)
        sizes = [answer_bytes(record) for record in records]
        means = [float(part.mean(dtype=np.float64)) for part in found if part.size]
        return measured(
            "conditional_perplexity",
            model,
            found,
            size=None if None in sizes else sum(each or 0 for each in sizes),
            unknown=unknown,
            made={"data": read.hash[:12], "tokens": sum(part.size for part in found), **made},
            parts={
                "per_record": exp_mean(float(np.mean(means)), 1),
                "records": len(records),
                "records_without_answer": len(records) - len(means),
                "unknown_tokens": unknown,
            },
        )

    def _losses(self, model: LanguageModel, records: list[Chat | Completion]) -> tuple[list[Nats], dict[str, Any], int]:
        """Losses of the answers under a causal model, what the signature says of them, and unknown tokens."""
        refuse_unless_causal(model)
        window, stride = window_and_stride(model, self.window, self.stride, model.context_length or _DEFAULT_WINDOW)
        encoded = list(tokenize(records, model.tokenizer, chat=self.chat))
        wanted = [[place for place, learned in enumerate(each.loss_mask) if learned] for each in encoded]
        tokens = sum(map(len, wanted))
        if not tokens:
            raise BadRequest("No record has an answer, so nothing can be scored.")
        with events.task("Conditional perplexity", total=tokens, unit="tokens") as progress:
            nats = token_losses(
                model.network,
                [each.input_ids for each in encoded],
                window=window,
                stride=stride,
                wanted=wanted,
                tokens_per_pass=256 * self.batch_size,
                progress=progress,
            )
        chat = self.chat or isinstance(records[0], Chat) or not isinstance(records[0].prompt, str)
        made = {"chat": str(bool(chat)).lower(), "window": window, "stride": stride}
        answers = ([each.input_ids[place] for place in places] for each, places in zip(encoded, wanted))
        return nats, made, _unknown(model, answers)

    def _target_losses(
        self, model: LanguageModel, records: list[Chat | Completion]
    ) -> tuple[list[Nats], dict[str, Any], int]:
        """The same under an encoder-decoder."""
        if self.window is not None or self.stride is not None or self.chat:
            raise BadRequest("An encoder-decoder reads a source at once: window, stride and chat say nothing here.")
        for record in records:
            if isinstance(record, Chat) or not (isinstance(record.prompt, str) and isinstance(record.completion, str)):
                raise BadRequest(f"{record.origin}: an encoder-decoder takes texts, not messages.")
        pairs = [(str(record.prompt), str(record.completion)) for record in records if isinstance(record, Completion)]
        sources = model.tokenizer([source for source, _ in pairs], verbose=False)["input_ids"]
        targets = model.tokenizer(text_target=[target for _, target in pairs], verbose=False)["input_ids"]
        limit = model.context_length
        for record, source, target in zip(records, sources, targets):
            if not source or not target:
                raise BadRequest(f"{record.origin}: the {'target' if source else 'source'} has no tokens.")
            if limit is not None and max(len(source), len(target)) > limit:
                raise BadRequest(
                    f"{record.origin}: {max(len(source), len(target))} tokens, but the model reads {limit} at once.",
                    "Shorten the record or leave it out.",
                )
        with events.task("Conditional perplexity", total=sum(map(len, targets)), unit="tokens") as progress:
            nats = target_losses(
                model.network, sources, targets, tokens_per_pass=64 * self.batch_size, progress=progress
            )
        return nats, {"decoder": "true"}, _unknown(model, targets)


def _unknown(model: LanguageModel, answers: Any) -> int:
    """How many scored tokens are the unknown token, where that isn't also the one that ends a text."""
    tokenizer = model.tokenizer
    if tokenizer.unk_token_id in (None, tokenizer.eos_token_id, tokenizer.pad_token_id):
        return 0
    return sum(list(answer).count(tokenizer.unk_token_id) for answer in answers)
