"""F1 of spans as a metric; the counting is tested with `ops.spans`."""

from __future__ import annotations

import pytest

from posttrain.core.errors import BadRequest
from posttrain.measure.span_f1 import SpanF1

OURS = ["B-PER I-PER O", "O I-LOC"]
THEIRS = [["B-PER I-PER O"], ["O B-LOC"]]


def test_by_hand():
    """Read leniently both spans are right; strictly the second isn't one: precision 1, recall 1/2."""
    found = SpanF1().score(OURS, THEIRS)
    assert found.value == 1.0 and found.parts["predicted"] == 2 and found.interval is None
    strict = SpanF1(strict=True).score(OURS, THEIRS)
    assert strict.value == pytest.approx(2 / 3)
    assert (strict.parts["precision"], strict.parts["recall"]) == (1.0, 0.5)
    assert strict.signature != found.signature


def test_interval_comes_from_the_sentences_that_have_spans():
    found = SpanF1().score([*OURS * 15, "O"], [*THEIRS * 15, ["O"]])
    assert found.interval == (1.0, 1.0)


def test_without_any_span_there_is_no_f1():
    """0/0: seqeval says 0 and warns. A predicted span that isn't there is a real 0."""
    with pytest.raises(BadRequest, match="Neither predictions nor references mark a span"):
        SpanF1().score(["O"] * 30, [["O"]] * 30)
    assert SpanF1().score(["B-PER", "O"], [["O"], ["O"]]).value == 0.0


@pytest.mark.parametrize(
    ("predictions", "references", "sentence"),
    [
        (["O O"], [["O"]], "Sentence 1 has 2 tags, its reference 1."),
        (["O", "NOUN"], [["O"], ["O"]], "Sentence 2 has tags that mark no spans."),
        (["O"], [["O", "O"]], "exactly one reference"),
    ],
)
def test_bad_rows(predictions, references, sentence):
    with pytest.raises(BadRequest, match=sentence):
        SpanF1().score(predictions, references)
