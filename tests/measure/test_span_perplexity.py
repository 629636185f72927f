"""Perplexity of spans: the chosen tokens of a plain call's log-probabilities, sizes by hand, spans of each kind."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from posttrain.core import events
from posttrain.core.errors import BadRequest
from posttrain.data.record import QuestionAnswer, Tagged, Text
from posttrain.measure.span_perplexity import SpanPerplexity, _text_and_spans
from posttrain.models.language_model import LanguageModel

TEXT = "The answer is forty-two. It rained in Paris, and the fox ran to Rome."


def losses(model: LanguageModel, text: str) -> tuple[list[float], list[tuple[int, int]]]:
    """Nats of each token but the first by a plain call, and where all tokens stand."""
    encoded = model.tokenizer(text, return_offsets_mapping=True, return_tensors="pt")
    ids = encoded.input_ids
    with torch.no_grad():
        logprobs = model.network(input_ids=ids).logits[0, :-1].double().log_softmax(-1)
    nats = -logprobs.gather(1, ids[0, 1:, None]).squeeze(1)
    return nats.tolist(), encoded.offset_mapping[0].tolist()


def expected(model: LanguageModel, text: str, spans: list[tuple[int, int]]) -> list[float]:
    nats, places = losses(model, text)
    inside = [any(start < b and end > a for a, b in spans) for start, end in places[1:]]
    return [each for each, wanted in zip(nats, inside) if wanted]


def written(tmp_path: Path, *rows: dict[str, Any]) -> str:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_a_pattern_finds_spans(tiny_llama: LanguageModel, tmp_path: Path) -> None:
    data = written(tmp_path, {"text": TEXT})
    spans = [(TEXT.index("Paris"), TEXT.index("Paris") + 5), (TEXT.index("Rome"), TEXT.index("Rome") + 4)]
    right = expected(tiny_llama, TEXT, spans)
    found = SpanPerplexity(text=data, pattern="Paris|Rome").measure(tiny_llama)
    assert found.parts["tokens_scored"] == len(right)
    assert found.value == pytest.approx(math.exp(sum(right) / len(right)), rel=1e-5)
    assert (found.parts["spans"], found.parts["texts"]) == (2, 1)
    assert "|pattern:'Paris\\x7cRome'|" in found.signature
    # Groups are the spans where a pattern has some; empty matches are none.
    grouped = SpanPerplexity(text=data, pattern="in (Paris)|to (Rome)|x*").measure(tiny_llama)
    assert grouped.value == found.value
    # A short window gives less context, so another value and another signature.
    short = SpanPerplexity(text=data, pattern="Paris|Rome", window=16).measure(tiny_llama)
    assert short.parts["tokens_scored"] == len(right)
    assert short.value != found.value


def test_records_hold_spans(tiny_llama: LanguageModel, tmp_path: Path) -> None:
    start = TEXT.index("forty-two")
    data = written(tmp_path, {"text": TEXT, "spans": [[start, start + 9]]}, {"text": "Nothing here.", "spans": []})
    right = expected(tiny_llama, TEXT, [(start, start + 9)])
    found = SpanPerplexity(text=data).measure(tiny_llama)
    assert found.parts["nll"] == pytest.approx(sum(right) / len(right), rel=1e-5)
    assert found.parts["texts"] == 1


def test_sizes_by_hand(tiny_llama: LanguageModel, tmp_path: Path) -> None:
    """é is two byte tokens that share one character: three tokens of "zéz" stand for four bytes in all.

    With zero weights each of the four tokens (z, two bytes, z) costs ln 300; bits a byte are 4 log2(300) / 4.
    """
    with torch.no_grad():
        tiny_llama.network.lm_head.weight.zero_()
    data = written(tmp_path, {"text": "x zéz", "spans": [[2, 5]]})
    found = SpanPerplexity(text=data).measure(tiny_llama)
    ids = tiny_llama.tokenizer("zéz")["input_ids"]
    assert found.parts["tokens_scored"] == len(ids) == 4
    assert found.parts["bits_per_byte"] == pytest.approx(math.log2(300), rel=1e-6)


def test_kinds_that_mark_spans() -> None:
    question = QuestionAnswer("Where?", "It rained in Paris.", ["Paris"], [13])
    assert _text_and_spans(question, None) == ("It rained in Paris.", [(13, 18)])
    tagged = Tagged(["Anna", "Lee", "saw", "Rome"], ["B-PER", "I-PER", "O", "B-LOC"])
    text, spans = _text_and_spans(tagged, None)
    assert sorted(text[start:end] for start, end in spans) == ["Anna Lee", "Rome"]


@pytest.mark.parametrize(
    ("record", "sentence"),
    [
        (Text("no spans", "x:1"), "x:1: this text record marks no spans"),
        (Text("short", "x:2", spans=[(2, 9)]), r"x:2: there is no span \[2, 9\] in a text of 5 characters"),
        (Tagged(["a", "b"], ["NOUN", "VERB"], "x:3"), "x:3: this tagged record marks no spans"),
    ],
)
def test_records_without_spans_are_named(record: Any, sentence: str) -> None:
    with pytest.raises(BadRequest, match=sentence):
        _text_and_spans(record, None)


def test_what_can_not_be_scored_is_refused(tiny_llama: LanguageModel, tmp_path: Path) -> None:
    data = written(tmp_path, {"text": TEXT})
    with pytest.raises(BadRequest, match=r"No token of .* lies in a span"):
        SpanPerplexity(text=data, pattern="Berlin").measure(tiny_llama)
    with pytest.raises(BadRequest, match="is no regular expression"):
        SpanPerplexity(text=data, pattern="(").measure(tiny_llama)


def test_a_first_token_that_is_wanted_but_cannot_be_scored_is_told(tiny_llama: LanguageModel, tmp_path: Path) -> None:
    """Nothing precedes it; with a token that begins the text it is scored like any other."""
    data = written(tmp_path, {"text": TEXT}, {"text": "It rained."})
    told: list[events.Event] = []
    with events.listen(told.append):
        found = SpanPerplexity(text=data, pattern="^The|Paris|^I").measure(tiny_llama)
    assert (found.parts["texts"], found.parts["unscored_first_tokens"]) == (1, 2)
    (warning,) = [event.name for event in told if event.kind == "message"]
    assert warning.startswith("The first token of 2 texts lies in a span and isn't scored")
    begun = SpanPerplexity(text=data, pattern="^The|Paris|^I", special_tokens="begin").measure(tiny_llama)
    assert (begun.parts["texts"], begun.parts["unscored_first_tokens"]) == (2, 0)
    with pytest.raises(BadRequest, match=r"but the first of a text, which isn't scored.*special_tokens=begin"):
        SpanPerplexity(text=data, pattern="^T").measure(tiny_llama)
