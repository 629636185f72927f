"""Scoring from files and from memory."""

from __future__ import annotations

import numpy as np
import pytest

import posttrain
from posttrain.core.errors import BadRequest
from posttrain.measure import Comparison, signature_differences
from posttrain.measure.rouge import Rouge
from posttrain.pipeline.scoring import score

OURS = ["the rivers rose", "rain fell", ""]
RIGHT = ["the river rose", "rain fell all night", "no"]


@pytest.fixture
def files(tmp_path):
    (tmp_path / "ours.txt").write_text("\n".join(OURS) + "\n")
    (tmp_path / "right.txt").write_text("\n".join(RIGHT) + "\n")
    (tmp_path / "more.txt").write_text("the rivers rose\n\n\n")
    return tmp_path


def test_texts_and_files_give_the_same(files):
    expected = Rouge(stemming=True).score(OURS, [[each] for each in RIGHT])
    ours, right = files / "ours.txt", files / "right.txt"
    for predictions, references in (
        (OURS, RIGHT),
        (OURS, [[each] for each in RIGHT]),
        (str(ours), str(right)),
        (ours, [right]),
        (OURS, right),
    ):
        assert posttrain.score("rouge", predictions, references, stemming=True) == expected
    assert score({"rouge": {"stemming": True}}, ours, right) == score(Rouge(stemming=True), ours, right) == expected
    both = score("rouge", ours, [right, files / "more.txt"])
    assert both == Rouge().score(OURS, [[RIGHT[0], OURS[0]], [RIGHT[1]], [RIGHT[2]]])


def test_a_baseline_makes_a_comparison(files):
    found = posttrain.score("rouge", RIGHT, files / "right.txt", baseline=files / "ours.txt")
    assert isinstance(found, Comparison)
    assert found.system.value == 1.0
    assert found.baseline == Rouge().score(OURS, [[each] for each in RIGHT])


def test_predictions_alone(files):
    assert posttrain.score("distinct_n", files / "ours.txt", n=1).value == 1.0
    with pytest.raises(BadRequest, match="distinct_n looks at predictions alone"):
        score("distinct_n", OURS, RIGHT)


@pytest.mark.parametrize(
    ("metric", "predictions", "references", "sentence"),
    [
        ("rogue", OURS, RIGHT, "Did you mean 'rouge'"),
        ("perplexity", OURS, RIGHT, "perplexity measures a model, not texts"),
        ("rouge", OURS, (), "rouge compares with references, and there are none"),
        ("rouge", OURS, RIGHT[:2], "predictions has 3 texts, but references has 2"),
        ("rouge", "ours.txt", RIGHT[:2], "ours.txt has 3 texts, but references has 2"),
    ],
)
def test_refusals(files, monkeypatch, metric, predictions, references, sentence):
    monkeypatch.chdir(files)
    with pytest.raises(BadRequest, match=sentence):
        score(metric, predictions, references)


def test_blank_references_may_be_answers(files):
    assert posttrain.score("exact_match", files / "more.txt", files / "more.txt").value == 100
    with pytest.raises(BadRequest, match=r"more.txt:2: the reference is empty"):
        posttrain.score("rouge", files / "more.txt", files / "more.txt")


@pytest.mark.parametrize(
    ("predictions", "references", "sentence"),
    [
        ([], [], "There are no predictions to score"),
        ([None], ["a"], "Prediction 1 is no text: None"),
        ([b"a"], ["a"], "Prediction 1 is no text: b'a'"),
        (["a", "b \ud800"], ["a", "b"], "Prediction 2: a text holds half a character"),
        (["a"], None, "there are none"),
        (["a"], [None], "Reference 1 is neither a text nor a list of texts: None"),
        (["a", "b"], ["a", ["b", 5]], "Reference of text 2, number 2 is no text: 5"),
    ],
)
def test_what_is_no_text_is_named(predictions, references, sentence):
    with pytest.raises(BadRequest, match=sentence):
        score("rouge", predictions, references)
    with pytest.raises(BadRequest, match="Baseline 1 is no text: 3"):
        score("rouge", ["a"], ["a"], baseline=[3])
    with pytest.raises(BadRequest, match="A seed is a whole number from 0 on, not -1"):
        score("rouge", ["a"], ["a"], seed=-1)


def test_texts_may_come_from_a_generator_or_an_array():
    assert score("rouge", (text for text in ["a b"]), (text for text in ["a b"])).value == 1.0
    assert score("rouge", np.array(["a", "b"]), np.array(["a", "c"])).value == 0.5


def test_a_class_name_with_the_mark_that_parts_a_signature():
    """Or the signature would fall apart into other parts, and differences be misread."""
    rows = ["a|b", "c"]
    ours, other = (score("classification", rows, rows, settings={"positive": each}).signature for each in rows)
    assert "|positive:a%7cb|" in ours and signature_differences(ours, other) == ["positive"]
