"""TER: by hand, and equal to sacrebleu."""

from __future__ import annotations

import pytest
from sacrebleu.metrics.ter import TER

from measure.corpus_toy import corpus, streams
from posttrain.core.errors import BadRequest
from posttrain.measure.ter import Ter


def test_by_hand():
    """One shift of `c d` to the end and one word too many: 2 edits by 4 words."""
    found = Ter().score(["c d a b b"], [["a b c d"]])
    assert found.value == pytest.approx(50)
    assert (found.parts["edits"], found.parts["reference_words"]) == (2, 4)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {}),
        ({"normalized": True, "no_punctuation": True}, {"normalized": True, "no_punct": True}),
        ({"case_sensitive": True, "asian_support": True}, {"case_sensitive": True, "asian_support": True}),
    ],
)
def test_equals_sacrebleu(ours, theirs):
    predictions, references = corpus(2, texts=30)
    peer = TER(**theirs)
    expected = peer.corpus_score(predictions, streams(references)).score
    found = Ter(**ours).score(predictions, references)
    assert found.value == pytest.approx(expected, rel=1e-12)
    assert str(peer.get_signature()) in found.signature
    assert not found.higher_is_better


def test_references_without_words_are_refused():
    """sacrebleu says 100 whatever is predicted: there is no length to divide by."""
    with pytest.raises(BadRequest, match="No reference has a word after removing punctuation"):
        Ter(no_punctuation=True).score(["one two"], [["!!!", "?"]])
    assert Ter(no_punctuation=True).score(["one two", "three"], [["!!!"], ["three"]]).parts["reference_words"] == 1
