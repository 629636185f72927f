"""METEOR: by hand, and equal to NLTK's without synonyms."""

from __future__ import annotations

import random

import pytest

from posttrain.core.errors import Failure
from posttrain.measure import meteor
from posttrain.measure.meteor import Meteor, align, chunks, words


def test_by_hand():
    """`the cats sat down` and `down sat the cat`: all four aligned, `cats` by its stem.

    Pairs (0, 2), (1, 3), (2, 1), (3, 0): three runs, so the penalty is 0.5 * (3 / 4) ** 3; precision and recall are 1.
    """
    pairs = align(words("the cats sat down"), words("down sat the cat"))
    assert pairs == [(0, 2), (1, 3), (2, 1), (3, 0)]
    assert chunks(pairs) == 3
    found = Meteor().score(["the cats sat down"], [["down sat the cat"]])
    assert found.value == pytest.approx(1 - 0.5 * 0.75**3)
    assert found.parts["penalty"] == pytest.approx(0.5 * 0.75**3)
    assert Meteor(stemming=False).score(["the cats"], [["the cat"]]).parts["recall"] == 0.5


def test_mean_of_precision_and_recall():
    """One of one word and one of three: P R / (0.9 P + 0.1 R) = (1/3) / (0.9 + 1/30); one run of one word: 0.5."""
    found = Meteor().score(["rain"], [["rain fell today"]])
    assert found.value == pytest.approx(0.5 * (1 / 3) / (0.9 + 0.1 / 3))
    assert Meteor(gamma=0.0, alpha=0.0).score(["rain"], [["rain fell today"]]).value == pytest.approx(1.0)


def test_several_references_and_nothing_in_common():
    assert Meteor().score(["a b"], [["x y", "a b"]]).value == Meteor().score(["a b"], [["a b"]]).value
    assert Meteor().score(["a", ""], [["b"], ["b"]]).value == 0.0


def test_synonyms_are_a_third_stage(monkeypatch):
    """`big` stands for `large`; a word's own form has gone by then, so the synonym takes what is left."""
    monkeypatch.setattr(meteor, "_wordnet", lambda: {"big": {"large", "huge"}}.get)
    stand_in = {"big": {"large", "huge"}}
    assert align(["a", "big", "dog"], ["a", "large", "dog"]) == [(0, 0), (2, 2)]
    assert align(["a", "big", "dog"], ["a", "large", "dog"], True, lambda word: stand_in.get(word, ())) == [
        (0, 0),
        (1, 1),
        (2, 2),
    ]
    # of two synonyms the later one, as every stage goes from the end
    assert align(["big"], ["large", "huge"], True, lambda word: stand_in.get(word, ())) == [(0, 1)]


def test_missing_wordnet_is_said(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "nltk.corpus", None)  # an import of it fails now
    with pytest.raises(Failure, match="WordNet"):
        Meteor(synonyms=True).score(["a"], [["a"]])


def test_equals_nltk_without_synonyms():
    theirs = pytest.importorskip("nltk.translate.meteor_score", reason="NLTK comes with rouge-score, of the dev extra")

    class NoSynonyms:
        @staticmethod
        def synsets(word):
            return []

    generator = random.Random(0)
    vocabulary = words("the a cats cat running runs run , happily happy rivers river connection connected")
    for _ in range(200):
        prediction, *references = (
            " ".join(generator.choices(vocabulary, k=generator.randrange(1, 14))) for _ in range(3)
        )
        expected = theirs.meteor_score([words(each) for each in references], words(prediction), wordnet=NoSynonyms)
        assert Meteor().score([prediction], [references]).value == pytest.approx(expected)
