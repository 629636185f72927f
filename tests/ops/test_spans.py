"""Spans in tag sequences, worked by hand and against seqeval where it is installed."""

from __future__ import annotations

import random

import pytest

from posttrain.ops.spans import SpanCounts, count_spans, mark_spans, spans


@pytest.mark.parametrize(
    ("tags", "lenient", "strict"),
    [
        ("B-PER I-PER O B-LOC", {("PER", 0, 1), ("LOC", 3, 3)}, {("PER", 0, 1), ("LOC", 3, 3)}),
        ("B-PER B-PER", {("PER", 0, 0), ("PER", 1, 1)}, {("PER", 0, 0), ("PER", 1, 1)}),
        ("O I-PER I-PER", {("PER", 1, 2)}, set()),  # nothing begins with B
        ("B-PER I-LOC", {("PER", 0, 0), ("LOC", 1, 1)}, {("PER", 0, 0)}),  # a change of kind ends a span
        ("B-PER I-LOC I-PER", {("PER", 0, 0), ("LOC", 1, 1), ("PER", 2, 2)}, {("PER", 0, 0)}),
        ("O O", set(), set()),
        ("", set(), set()),
        ("B-X-Y I-X-Y", {("X-Y", 0, 1)}, {("X-Y", 0, 1)}),  # only the first dash parts prefix and kind
    ],
)
def test_by_hand(tags, lenient, strict):
    assert spans(tags.split()) == lenient
    assert spans(tags.split(), strict=True) == strict


def test_singles_and_ends():
    """S- is a span of its own, and what follows E- begins another."""
    assert spans(["S-A", "S-A", "B-A", "E-A", "I-A"]) == {("A", 0, 0), ("A", 1, 1), ("A", 2, 3), ("A", 4, 4)}


def test_counts_by_hand():
    """Only PER is right: LOC and ORG are predicted where the references have one longer LOC."""
    ours = [["B-PER", "I-PER", "O"], ["B-LOC", "B-ORG"]]
    theirs = [["B-PER", "I-PER", "O"], ["B-LOC", "I-LOC"]]
    found = count_spans(ours, theirs)
    assert found == SpanCounts(1, 3, 2)
    assert (found.precision, found.recall, found.f1) == (pytest.approx(1 / 3), 0.5, pytest.approx(0.4))
    assert SpanCounts(0, 0, 0).f1 == SpanCounts(0, 0, 0).precision == SpanCounts(0, 0, 0).recall == 0.0


def test_sentences_are_counted_in_pieces():
    generator = random.Random(1)
    tags = ["O", "B-A", "I-A", "B-B", "I-B"]
    ours, theirs = ([[generator.choice(tags) for _ in range(6)] for _ in range(20)] for _ in range(2))
    pieces = [count_spans([a], [b]) for a, b in zip(ours, theirs)]
    assert count_spans(ours, theirs) == SpanCounts(
        sum(p.correct for p in pieces), sum(p.predicted for p in pieces), sum(p.actual for p in pieces)
    )


def test_lengths_must_agree():
    with pytest.raises(ValueError):
        count_spans([["O"]], [["O"], ["O"]])


def test_which_tags_mark_spans():
    assert mark_spans(["O", "B-PER", "I-PER", "S-X", "E-X"])
    assert not mark_spans(["NOUN", "VERB"]) and not mark_spans(["O", "PER"]) and not mark_spans(["B-"])


def test_equals_seqeval():
    metrics = pytest.importorskip("seqeval.metrics")
    from seqeval.scheme import IOB2

    generator = random.Random(0)
    for tags, strict in ((["O", "B-A", "I-A", "B-B", "I-B", "E-A", "S-B"], False), (["O", "B-A", "I-A", "I-B"], True)):
        ours, theirs = ([[generator.choice(tags) for _ in range(9)] for _ in range(60)] for _ in range(2))
        found = count_spans(ours, theirs, strict)
        options = {"mode": "strict", "scheme": IOB2} if strict else {}
        assert found.f1 == pytest.approx(metrics.f1_score(theirs, ours, **options), abs=1e-12)
        assert found.precision == pytest.approx(metrics.precision_score(theirs, ours, **options), abs=1e-12)
        assert found.recall == pytest.approx(metrics.recall_score(theirs, ours, **options), abs=1e-12)
