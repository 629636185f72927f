"""Porter's stemmer: Porter's own examples, the rules of NLTK's mode, and NLTK itself on made-up words."""

from __future__ import annotations

import random

import pytest

from posttrain.ops.porter import stem

_LIST = (
    "s es ies ied ed ing eed y ational tional enci anci izer bli alli entli eli ousli ization ation ator alism iveness "
    "fulness ousness aliti iviti biliti fulli logi icate ative alize iciti ical ful ness al ance ence er ic able ible "
    "ant ement ment ent ion ou ism ate iti ous ive ize e ll at bl iz ly ss sses"
)
ENDINGS = _LIST.split()


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("caresses", "caress"),
        ("ponies", "poni"),
        ("cats", "cat"),
        ("agreed", "agre"),  # agree after step 1, and the e goes in step 5
        ("plastered", "plaster"),
        ("motoring", "motor"),
        ("conflated", "conflat"),
        ("hopping", "hop"),
        ("falling", "fall"),
        ("filing", "file"),
        ("relational", "relat"),
        ("vietnamization", "vietnam"),
        ("electriciti", "electr"),
        ("adjustment", "adjust"),
        ("adoption", "adopt"),
        ("controll", "control"),
        # what NLTK's mode adds
        ("flies", "fli"),
        ("dies", "die"),
        ("spied", "spi"),
        ("died", "die"),
        ("enjoy", "enjoy"),
        ("happy", "happi"),
        ("dying", "die"),
        ("skies", "sky"),
        ("theologi", "theolog"),
        ("proceed", "proceed"),
        # too short, no letters, other letters
        ("as", "as"),
        ("s", "s"),
        ("", ""),
        ("2020s", "2020"),
        ("naïve", "naïv"),
    ],
)
def test_by_hand(word: str, expected: str) -> None:
    assert stem(word) == expected


def test_equals_nltk() -> None:
    porter = pytest.importorskip("nltk.stem.porter", reason="NLTK comes with rouge-score, of the dev extra")
    theirs = porter.PorterStemmer()
    generator = random.Random(0)
    for _ in range(4000):
        word = "".join(generator.choice("abcdeilnorstuyyz9w") for _ in range(generator.randrange(5)))
        word += "".join(generator.choice(ENDINGS) for _ in range(generator.randrange(4)))
        assert stem(word) == theirs.stem(word), word
