"""n-gram counts worked by hand, and the corpus counts against a set of tuples."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest

from posttrain.ops.ngrams import count, distinct, distinct_counts, longest_run, ngrams, overlap, repetition_rate

CAT = ["the", "cat", "sat", "on", "the", "cat"]


def test_ngrams_by_hand() -> None:
    assert list(ngrams("abcd", 2)) == [("a", "b"), ("b", "c"), ("c", "d")]
    assert list(ngrams([1, 2], 3)) == []
    assert list(ngrams([7, 8], 1)) == [(7,), (8,)]


def test_count_by_hand() -> None:
    assert count(CAT, 2) == {("the", "cat"): 2, ("cat", "sat"): 1, ("sat", "on"): 1, ("on", "the"): 1}


def test_overlap_is_clipped() -> None:
    """Papineni's example: seven "the" against a reference with two count twice, from either side."""
    candidate, reference = ["the"] * 7, ["the", "cat", "is", "on", "the", "mat"]
    assert overlap(candidate, reference, 1) == overlap(reference, candidate, 1) == 2
    assert overlap(candidate, reference, 2) == 0
    assert overlap(CAT, CAT, 2) == 5


def test_distinct_by_hand() -> None:
    """Bigrams ab bc | ab | (none): 2 different of 3; nothing reaches from one text into the next."""
    texts = ["abc", "ab", "c", ""]
    assert distinct_counts(texts, 2) == (2, 3)
    assert distinct(texts, 2) == pytest.approx(2 / 3)
    assert distinct_counts(texts, 1) == (3, 6)
    assert distinct_counts(texts, 4) == (0, 0)
    assert distinct([], 1) == 0.0


@pytest.mark.parametrize("vocabulary", [2, 50, 1 << 40])
@pytest.mark.parametrize("n", [1, 2, 3, 5, 80])
def test_corpus_counts_equal_a_set_of_tuples(n: int, vocabulary: int) -> None:
    """2^80 windows overflow an integer code, so n = 80 covers the renumbering."""
    generator = random.Random(n)
    texts = [[generator.randrange(vocabulary) for _ in range(generator.randrange(120))] for _ in range(60)]
    texts.append(list(texts[0]))
    grams = [gram for text in texts for gram in ngrams(text, n)]
    assert distinct_counts(texts, n) == (len(set(grams)), len(grams))


def test_repetition_rate_by_hand() -> None:
    """5 bigrams, 4 different: 1 - 4/5."""
    assert repetition_rate(CAT, 2) == pytest.approx(0.2)
    assert repetition_rate("aaaa", 1) == 0.75
    assert repetition_rate("abc", 1) == 0.0
    assert repetition_rate("ab", 3) == 0.0


def test_longest_run_by_hand() -> None:
    assert longest_run("abbbac") == 3
    assert longest_run("abc") == 1
    assert longest_run("") == 0
    assert longest_run("xababab y".replace(" ", ""), 2) == 3
    assert longest_run("ababa", 2) == 2  # the last a does not complete a third copy
    assert longest_run("aaaa", 2) == 2
    assert longest_run("a", 2) == 0


@pytest.mark.parametrize(
    "call",
    [
        lambda: ngrams("ab", 0),
        lambda: count("ab", 0),
        lambda: overlap("ab", "ab", 0),
        lambda: distinct(["ab"], 0),
        lambda: repetition_rate("ab", 0),
        lambda: longest_run("ab", 0),
    ],
)
def test_n_below_one_is_refused(call) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="at least 1"):
        call()


def test_numpy_only() -> None:
    code = "import sys, posttrain.ops.ngrams, posttrain.ops.bootstrap; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
