"""chrF: by hand, and equal to sacrebleu."""

from __future__ import annotations

import pytest
from sacrebleu.metrics.chrf import CHRF

from measure.corpus_toy import corpus, streams
from posttrain.measure.chrf import Chrf


def test_by_hand():
    """Single characters: of abc and abd 2 of 3 on both sides, whatever beta."""
    assert Chrf(char_order=1).score(["abc"], [["abd"]]).value == pytest.approx(200 / 3)
    # 2 of 2 and 2 of 4: F2 = 5 P R / (4 P + R) = 5 * 0.5 / 4.5
    assert Chrf(char_order=1).score(["ab"], [["abcd"]]).value == pytest.approx(100 * 2.5 / 4.5)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"word_order": 2},
        {"char_order": 3, "beta": 1, "lowercase": True, "whitespace": True},
        {"word_order": 2, "eps_smoothing": True},
    ],
)
def test_equals_sacrebleu(settings):
    predictions, references = corpus(1)
    peer = CHRF(**settings)
    expected = peer.corpus_score(predictions, streams(references)).score
    found = Chrf(**settings).score(predictions, references)
    assert found.value == pytest.approx(expected, rel=1e-12)
    assert str(peer.get_signature()) in found.signature
    assert found.interval[0] < found.value < found.interval[1]
