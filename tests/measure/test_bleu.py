"""BLEU: by hand, and equal to sacrebleu with every setting."""

from __future__ import annotations

import math

import pytest
from sacrebleu.metrics.bleu import BLEU

from measure.corpus_toy import corpus, streams
from posttrain.core.errors import BadRequest, Failure
from posttrain.measure._sacrebleu import CorpusMetric
from posttrain.measure.bleu import Bleu, weighted_mean


def test_by_hand():
    """`a b c d x` of `a b c d e f`: precisions 4/5, 3/4, 2/3, 1/2, mean 0.2 ** (1/4); penalty exp(1 - 6/5)."""
    found = Bleu().score(["a b c d x"], [["a b c d e f"]])
    assert found.value == pytest.approx(100 * 0.2**0.25 * math.exp(-0.2))
    assert found.parts["precisions"] == pytest.approx([80, 75, 200 / 3, 50])
    assert found.parts["brevity_penalty"] == pytest.approx(math.exp(-0.2))
    assert (found.parts["prediction_words"], found.parts["reference_words"]) == (5, 6)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {}),
        ({"lowercase": True, "tokenizer": "intl"}, {"lowercase": True, "tokenize": "intl"}),
        ({"smoothing": "add-k", "max_order": 3}, {"smooth_method": "add-k", "max_ngram_order": 3}),
        (
            {"smoothing": "floor", "smoothing_value": 0.3, "max_order": 6},
            {"smooth_method": "floor", "smooth_value": 0.3, "max_ngram_order": 6},
        ),
        ({"smoothing": "none", "effective_order": True}, {"smooth_method": "none", "effective_order": True}),
        ({"tokenizer": "char"}, {"tokenize": "char"}),
    ],
)
def test_equals_sacrebleu(ours, theirs):
    predictions, references = corpus()
    peer = BLEU(**theirs)
    expected = peer.corpus_score(predictions, streams(references))
    found = Bleu(**ours).score(predictions, references)
    assert found.value == pytest.approx(expected.score, rel=1e-12)
    assert str(peer.get_signature()) in found.signature
    assert found.parts["precisions"] == pytest.approx(expected.precisions)
    low, high = found.interval
    assert low < found.value < high


def test_weights():
    """Only the precisions of one and two words, three to one: 0.8 ** 0.75 * 0.75 ** 0.25."""
    rows = ["a b c d x"], [["a b c d e"]]
    found = Bleu(weights=[3, 1, 0, 0]).score(*rows)
    assert found.value == pytest.approx(100 * 0.8**0.75 * 0.75**0.25)
    assert Bleu(weights=[1, 1, 1, 1]).score(*rows).value == pytest.approx(Bleu().score(*rows).value)
    assert weighted_mean([50.0, 0.0], [1, 1]) == 0.0
    assert weighted_mean([50.0, 0.0], [1, 0]) == pytest.approx(50)
    short = Bleu(weights=[1, 1, 1, 1], effective_order=True).score(["a b"], [["a b"]])
    assert short.value == pytest.approx(100)


def test_texts_without_ngrams_of_the_order_are_refused():
    with pytest.raises(BadRequest, match="No reference has 4 words"):
        Bleu().score(["yes", "no"], [["yes"], ["no"]])
    assert Bleu(max_order=1).score(["yes", "no"], [["yes"], ["no"]]).value == pytest.approx(100)
    assert Bleu(effective_order=True).score(["yes", "no"], [["yes"], ["no"]]).value == pytest.approx(100)
    assert Bleu().score(["yes"], [["a long reference of words"]]).value == 0.0  # a bad text, not a bad test


def test_refusals():
    with pytest.raises(BadRequest, match="takes 4 weights"):
        Bleu(weights=[1, 1]).score(["a"], [["a"]])
    with pytest.raises(Failure, match="ja-mecab can't be used: Japanese") as failed:
        Bleu(tokenizer="ja-mecab").score(["a"], [["a"]])
    assert "\n" not in str(failed.value)


def test_progress_in_pieces_changes_nothing(monkeypatch):
    predictions, references = corpus()
    whole = Bleu().score(predictions, references)
    monkeypatch.setattr("posttrain.measure._sacrebleu._CHUNK", 7)
    assert Bleu().score(predictions, references) == whole
    assert issubclass(Bleu, CorpusMetric)


@pytest.mark.parametrize("weights", [[-1, 2, 1, 1], [0, 0, 0, 0], [math.inf, 1, 1, 1], [math.nan, 1, 1, 1]])
def test_weights_that_make_no_mean(weights):
    text = "one two three four"
    with pytest.raises(BadRequest, match="4 weights, none below 0 and not all 0"):
        Bleu(weights=weights).score([text], [[text]])
