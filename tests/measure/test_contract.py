"""Contract of the `measure` family, checked on every method the folder holds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from posttrain.core import catalog
from posttrain.core.errors import BadRequest
from posttrain.core.settings import help_of
from posttrain.measure import Measurement, ModelMetric, TextMetric
from posttrain.models.language_model import LanguageModel

TERMS = catalog.terms("measure")
OF_MODELS = [term for term in TERMS if issubclass(catalog.find("measure", term), ModelMetric)]
OF_TEXTS = [term for term in TERMS if issubclass(catalog.find("measure", term), TextMetric)]

PREDICTIONS = ["the fox jumps over the dog", "rain fell all night", "it is forty-two", "a token comes next", "so it is"]
REFERENCES = [["the fox jumps over the dog"], ["rain fell in the night"], ["it is two"], ["it is forty-two"], ["no"]]
# For metrics that read no running text.
TAGS = ["B-PER I-PER", "O O B-LOC", "O", "B-LOC O", "O O"]
RIGHT_TAGS = [["B-PER I-PER"], ["O B-LOC I-LOC"], ["O"], ["B-LOC O"], ["B-PER O"]]


def _is_whole(measurement: Measurement, term: str) -> None:
    """A value that says how it was made, inside its interval, and can be written as strict JSON."""
    assert measurement.name == term
    assert measurement.signature.startswith(term)
    assert "posttrain:" in measurement.signature
    assert measurement.higher_is_better == catalog.find("measure", term).higher_is_better
    if measurement.interval is not None:
        low, high = measurement.interval
        assert low <= measurement.value <= high
    written = json.loads(json.dumps(measurement.to_dict(), allow_nan=False))
    assert written["value"] == measurement.value
    assert written["signature"] == measurement.signature


@pytest.mark.parametrize("term", TERMS)
def test_settings_are_documented_and_the_direction_is_declared(term: str) -> None:
    cls = catalog.find("measure", term)
    assert all(help_of(cls).values())
    assert isinstance(cls.__dict__.get("higher_is_better"), bool)
    assert (term in OF_MODELS) != (term in OF_TEXTS)
    assert catalog.build("measure", catalog.dump(cls())) == cls()


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("The quick brown fox jumps over the lazy dog. Rain fell all night, and the river rose. " * 4)
    return path


@pytest.mark.parametrize("term", OF_MODELS)
def test_a_model_is_measured_alike_each_time_and_in_any_batches(
    term: str, tiny_llama: LanguageModel, text: Path
) -> None:
    fields = catalog.find("measure", term).model_fields
    settings = {"text": str(text)} if "text" in fields else {}
    try:
        first = catalog.build("measure", {term: settings}).measure(tiny_llama)
    except BadRequest as refusal:
        pytest.skip(f"not for a causal language model: {refusal}")
    _is_whole(first, term)
    again = catalog.build("measure", {term: settings}).measure(tiny_llama)
    assert again == first
    if "batch_size" in fields:
        for batch_size in (1, 5):
            other = catalog.build("measure", {term: {**settings, "batch_size": batch_size}}).measure(tiny_llama)
            assert other.value == pytest.approx(first.value, rel=1e-6)
            assert other.signature == first.signature


def _rows(metric: TextMetric) -> tuple[list[str], list[list[str]]]:
    """Predictions and references that the metric can read."""
    try:
        metric.score(PREDICTIONS, REFERENCES)
    except BadRequest:
        return TAGS, RIGHT_TAGS
    return PREDICTIONS, REFERENCES


@pytest.mark.parametrize("term", OF_TEXTS)
def test_texts_are_scored_alike_in_any_order_and_twice(term: str) -> None:
    metric = catalog.build("measure", term)
    predictions, references = _rows(metric)
    found = metric.score(predictions, references)
    _is_whole(found, term)
    assert metric.score(predictions[::-1], references[::-1]).value == pytest.approx(found.value, rel=1e-9)
    assert metric.score(predictions * 2, references * 2).value == pytest.approx(found.value, rel=1e-9)


@pytest.mark.parametrize("term", OF_TEXTS)
def test_the_references_themselves_are_the_best_predictions(term: str) -> None:
    metric = catalog.build("measure", term)
    predictions, references = _rows(metric)
    perfect = metric.score([each[0] for each in references], references).value
    found = metric.score(predictions, references).value
    assert perfect > found if metric.higher_is_better else perfect < found
