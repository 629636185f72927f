"""ROUGE: by hand, by the example of the paper, and equal to Google's rouge-score on random texts."""

from __future__ import annotations

import random

import pytest

from posttrain.core import events
from posttrain.core.errors import BadRequest
from posttrain.measure.rouge import Rouge, Words, rouge, rouge_lsum

VARIANTS = ["rouge1", "rouge2", "rouge3", "rougeL", "rougeLsum"]
_VOCABULARY = (
    "the The a running runs ran connections connected flies fly happily-ever, river's rivers 2020 3rd of naïve İ "
    "hopefully hopeful summarization summaries . - rain raining night nights"
)
WORDS = _VOCABULARY.split()


def test_by_hand():
    """`the cat sat` of `the cat sat down now`: all 3 words of 5, 2 pairs of 4; backwards one word in order."""
    found = Rouge().score(["The cat sat!"], [["the cat sat down now"]])
    assert found.value == found.parts["rougeL"] == pytest.approx(2 * 3 / (3 + 5))
    assert found.parts["rouge1_precision"] == 1.0
    assert found.parts["rouge1_recall"] == pytest.approx(0.6)
    assert found.parts["rouge2"] == pytest.approx(2 * 2 / (2 + 4))
    assert found.interval is None  # one text
    back = Rouge().score(["sat cat the"], [["the cat sat"]]).parts
    assert (back["rouge1"], back["rouge2"]) == (1.0, 0.0)
    assert back["rougeL"] == pytest.approx(1 / 3)


def test_summaries_by_the_papers_example():
    """Section 3.2: w1 w2 w3 w4 w5 has w1 w2 in the first line and w1 w3 w5 in the second, together 4 of 5."""
    prediction = [["w1", "w2", "w6", "w7", "w8"], ["w1", "w3", "w8", "w9", "w5"]]
    precision, recall, f1 = rouge_lsum(prediction, [["w1", "w2", "w3", "w4", "w5"]])
    assert (precision, recall, f1) == pytest.approx((0.4, 0.8, 2 * 4 / 15))


def test_stemming_and_the_chosen_variant():
    rows = ["the rivers flooded"], [["the river floods"]]
    assert Rouge().score(*rows).value == pytest.approx(1 / 3)
    assert Rouge(stemming=True).score(*rows).value == 1.0
    assert Rouge(score_by="rouge2", stemming=True).score(*rows).value == 1.0
    third = Rouge(score_by="rouge3", variants=["rouge1"]).score(*rows)
    assert {"rouge1", "rouge3"} <= third.parts.keys() and "rouge2" not in third.parts
    assert Rouge().score(["its"], [["it"]]).value == Rouge(stemming=True).score(["its"], [["it"]]).value == 0.0


@pytest.mark.parametrize("stemming", [False, True])
def test_equals_rouge_score(stemming):
    scorer = pytest.importorskip("rouge_score.rouge_scorer", reason="rouge-score is in the dev extra")
    theirs = scorer.RougeScorer(VARIANTS, use_stemmer=stemming)
    generator = random.Random(stemming)

    def text() -> str:
        lines = (
            " ".join(generator.choices(WORDS, k=generator.randrange(12))) for _ in range(generator.randrange(1, 5))
        )
        return "\n".join(lines)

    for _ in range(150):
        prediction, references = text(), [text() for _ in range(generator.randrange(1, 4))]
        expected = theirs.score_multi(references, prediction)
        ours = [rouge(Words(prediction, stemming), Words(each, stemming), VARIANTS) for each in references]
        for variant, found in zip(VARIANTS, zip(*ours)):
            best = max(found, key=lambda overlap: overlap[2])
            assert best == pytest.approx(tuple(expected[variant]), abs=1e-9), (variant, prediction, references)


def test_the_value_is_the_mean_and_the_interval_is_about_it():
    generator = random.Random(3)
    predictions, references = (
        [" ".join(generator.choices(WORDS, k=8)) for _ in range(40)],
        [[" ".join(generator.choices(WORDS, k=8))] for _ in range(40)],
    )
    found = Rouge().score(predictions, references)
    each = [Rouge().score([a], [b]).value for a, b in zip(predictions, references)]
    assert found.value == pytest.approx(sum(each) / 40)
    assert found.interval[0] < found.value < found.interval[1]
    assert Rouge().score(predictions, references, seed=1).interval != found.interval


def test_texts_without_words_have_nothing_in_common():
    for prediction, reference in (("", "a word"), ("…", "a word"), ("words", "/")):
        assert set(rouge(Words(prediction, False), Words(reference, False), VARIANTS)) == {(0.0, 0.0, 0.0)}


def test_references_without_words_are_refused_and_some_are_told():
    """Other scripts have no words for ROUGE, so equal texts would score 0."""
    with pytest.raises(BadRequest, match="No reference has a word of letters a to z or digits"):
        Rouge().score(["Привет, мир"], [["Привет, мир"]])
    told = []
    with events.listen(told.append):
        found = Rouge().score(["Привет", "the fox"], [["Привет"], ["the fox", "лиса"]])
    assert found.value == 0.5
    (warning,) = [event for event in told if event.kind == "message"]
    assert warning.name.startswith("1 of 2 references have no letters")
