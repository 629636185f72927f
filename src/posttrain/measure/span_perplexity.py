"""Span perplexity: only the tokens of marked parts count, each given everything before it.

exp of the mean negative log-likelihood of the tokens that have a character in common with a span: names, numbers,
answers, code in a text. A token that reaches across a span's edge counts whole. Spans stand in the record (`spans` of a
text, the answers of a question with a context, the entities that tags mark) or are what a regular expression finds; of
one with groups, the groups. The whole text is read, so spans are judged in their context; text behind a span isn't.

Left out: the probability of a span among other spans, as in choosing an answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, ClassVar

from pydantic import Field

from posttrain.core import events
from posttrain.core.errors import BadRequest
from posttrain.data import dataset
from posttrain.data.record import Labelled, QuestionAnswer, Record, Tagged, Text, kind_of
from posttrain.measure import Measurement, ModelMetric
from posttrain.measure._token_losses import measured, refuse_unless_causal
from posttrain.models.language_model import LanguageModel
from posttrain.models.text_tokens import SpecialTokens, TextTokens, special_tokens, text_tokens
from posttrain.models.token_losses import token_losses, window_and_stride
from posttrain.ops.spans import mark_spans
from posttrain.ops.spans import spans as tagged_spans

_DEFAULT_WINDOW = 1024

Span = tuple[int, int]


@dataclass(frozen=True)
class _Marked:
    """A text as tokens, where the ones stand that are scored, how many bytes these stand for, and in how many spans.

    `first_missed` says whether its first token lies in a span too, which nothing precedes that could predict it.
    """

    tokens: TextTokens
    wanted: list[int]
    size: int
    spans: int
    first_missed: bool


class SpanPerplexity(ModelMetric):
    """exp of the mean negative log-likelihood of the tokens in marked parts of texts."""

    higher_is_better: ClassVar[bool] = False
    reads: ClassVar[tuple[str, ...]] = ("text",)

    text: str = "builtin:prose"
    """What to score: a text file or a data set."""

    kind: str | None = None
    """Kind of records; found out from the columns when not given."""

    columns: dict[str, str] = {}
    """Maps the names posttrain uses (text, spans, context, answers …) to the file's own."""

    pattern: str | None = None
    """A regular expression that finds the spans, as in [0-9]+ for numbers; without it the records hold them."""

    window: int | None = Field(None, ge=2)
    """Tokens the model reads at once; when not given 1024, or the model's context where that is shorter."""

    stride: int | None = Field(None, ge=1)
    """By how many tokens the window moves; half the window when not given."""

    special_tokens: SpecialTokens = "own"
    """Special tokens that a text gets: the tokenizer's own, none, or its own and always one that begins the text."""

    batch_size: int = Field(2, ge=1)
    """Full windows in one pass, or as many tokens of shorter ones; changes speed and memory, never the value."""

    def inputs(self) -> dict[str, Any]:
        """The data's hash."""
        read = self._read()
        return {"text": {"source": read.source, "hash": read.hash}}

    def _read(self) -> dataset.Dataset:
        return dataset.read(self.text, kind=self.kind, columns=self.columns)

    def measure(self, model: LanguageModel) -> Measurement:
        """Score the spans.

        The interval is a bootstrap over texts or, where there are few, over blocks of neighbouring scored tokens.

        Raises:
            BadRequest: If the model isn't causal, the window doesn't fit, the pattern is none, or there are no spans.
            Failure: If the model's logits aren't numbers.
        """
        refuse_unless_causal(model)
        window, stride = window_and_stride(model, self.window, self.stride, _DEFAULT_WINDOW)
        read = self._read()
        expression = self._expression()
        texts = (_text_and_spans(record, expression) for record in read.records)
        found = [each for text, spans in texts if (each := self._marked(model, text, spans)) is not None]
        missed = sum(each.first_missed for each in found)
        marked = [each for each in found if each.wanted]
        if not marked:
            also = " but the first of a text, which isn't scored" if missed else ""
            raise BadRequest(
                f"No token of {read.source} lies in a span{also}, so nothing can be scored.",
                "Set special_tokens=begin, which puts a token before it."
                if missed
                else "Give texts with spans, or another pattern.",
            )
        if missed:
            events.message(
                f"The first token of {missed} texts lies in a span and isn't scored, because nothing precedes it; with "
                "special_tokens=begin it is.",
                level="warning",
            )
        tokens = sum(len(each.wanted) for each in marked)
        with events.task("Span perplexity", total=tokens, unit="tokens") as progress:
            nats = token_losses(
                model.network,
                [each.tokens.ids for each in marked],
                window=window,
                stride=stride,
                wanted=[each.wanted for each in marked],
                tokens_per_pass=self.batch_size * window,
                progress=progress,
            )
        unknown = sum(each.tokens.unknown for each in marked)
        made = {
            "text": read.hash[:12],
            "pattern": "none" if self.pattern is None else repr(self.pattern).replace("|", "\\x7c"),
            "tokens": tokens,
            "window": window,
            "stride": stride,
            "special": special_tokens(model, self.special_tokens),
        }
        return measured(
            "span_perplexity",
            model,
            nats,
            size=sum(each.size for each in marked),
            unknown=unknown,
            made=made,
            parts={
                "spans": sum(each.spans for each in marked),
                "texts": len(marked),
                "unscored_first_tokens": missed,
                "unknown_tokens": unknown,
                "special_tokens": made["special"],
            },
        )

    def _expression(self) -> re.Pattern[str] | None:
        if self.pattern is None:
            return None
        try:
            return re.compile(self.pattern)
        except re.error as error:
            raise BadRequest(f"The pattern {self.pattern!r} is no regular expression: {error}.") from None

    def _marked(self, model: LanguageModel, text: str, spans: Sequence[Span]) -> _Marked | None:
        """The text as tokens, and those of them that are scored; None if the text has no spans or no two tokens."""
        tokens = text_tokens(model, text, special=self.special_tokens, with_spans=True) if spans else None
        if tokens is None or tokens.spans is None:
            return None
        wanted, size, done, ascending, first_missed = [], 0, 0, sorted(spans), False
        for place, (start, end) in enumerate(tokens.spans.tolist()):
            while ascending and ascending[0][1] <= start:
                ascending.pop(0)
            if start < 0 or not ascending or end <= ascending[0][0]:
                continue
            if place == 0:
                first_missed = True
            else:
                wanted.append(place)
                # Tokens may share a character; none is counted twice.
                size += len(text[max(start, done) : end].encode("utf-8", "surrogatepass"))
                done = max(done, end)
        return _Marked(tokens, wanted, size, len(spans), first_missed)


def _text_and_spans(record: Record, expression: re.Pattern[str] | None) -> tuple[str, list[Span]]:
    """A record's text and the spans of it that count.

    Raises:
        BadRequest: If the record has no text, or no spans where it should hold them.
    """
    text, spans = _marked_in(record)
    if expression is None:
        if spans is None:
            raise BadRequest(
                f"{record.origin}: this {kind_of(record)} record marks no spans.",
                "Give texts with `spans`, questions with their context, tags that mark entities, or a pattern.",
            )
        return text, spans
    groups = range(1, expression.groups + 1) if expression.groups else (0,)
    found = (match.span(group) for match in expression.finditer(text) for group in groups)
    return text, [(start, end) for start, end in found if end > start]


def _marked_in(record: Record) -> tuple[str, list[Span] | None]:
    """A record's text, and the spans it holds; None if it is of a kind that holds none."""
    if isinstance(record, Text):
        for start, end in record.spans or ():
            if not 0 <= start < end <= len(record.text):
                raise BadRequest(
                    f"{record.origin}: there is no span [{start}, {end}] in a text of {len(record.text)} characters."
                )
        return record.text, record.spans
    if isinstance(record, QuestionAnswer):
        return record.context, [(start, start + len(each)) for start, each in zip(record.starts, record.answers)]
    if isinstance(record, Tagged):
        tags = [str(tag) for tag in record.tags]
        starts = [0, *accumulate(len(word) + 1 for word in record.tokens)]
        found = [(starts[first], starts[last + 1] - 1) for _, first, last in tagged_spans(tags)]
        return " ".join(record.tokens), found if mark_spans(tags) else None
    if isinstance(record, Labelled):
        return record.text, None
    raise BadRequest(f"{record.origin}: a {kind_of(record)} record has no spans of a text.")
