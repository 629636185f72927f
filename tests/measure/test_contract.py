"""Contract of the `measure` family, checked on every method the folder holds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from measure.masked_toy import make_tiny_masked
from posttrain.core import catalog
from posttrain.core.errors import BadRequest
from posttrain.core.settings import help_of
from posttrain.measure import AdditiveMetric, Measurement, ModelMetric, TextMetric
from posttrain.models.language_model import LanguageModel
from posttrain.models.saving import save
from tiny_models import make_tiny_bert

TERMS = catalog.terms("measure")
OF_MODELS = [term for term in TERMS if issubclass(catalog.find("measure", term), ModelMetric)]
OF_TEXTS = [term for term in TERMS if issubclass(catalog.find("measure", term), TextMetric)]

# What metrics read: running text, tags, numbers. In each the references are better than the predictions.
TEXTS = (
    ["the fox jumps over the dog", "rain fell all night", "it is forty-two", "a token comes next", "so it is"],
    [["the fox jumps over the dog"], ["rain fell in the night"], ["it is two"], ["it is forty-two"], ["no"]],
)
TAGS = (
    ["B-PER I-PER", "O O B-LOC", "O", "B-LOC O", "O O"],
    [["B-PER I-PER"], ["O B-LOC I-LOC"], ["O"], ["B-LOC O"], ["B-PER O"]],
)
NUMBERS = (["1", "4", "2.5", "-3", "0"], [["2"], ["3"], ["1"], ["0.5"], ["1e1"]])


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
    needed = {"text": str(text), "pattern": "[a-z]+"}
    settings = {name: value for name, value in needed.items() if name in fields}
    metric = catalog.build("measure", {term: settings})
    model = tiny_llama
    try:
        first = metric.measure(model)
    except BadRequest:  # not for a causal language model
        model = make_tiny_masked()
        first = metric.measure(model)
    _is_whole(first, term)
    assert metric.measure(model) == first
    if "batch_size" in fields:
        for batch_size in (1, 5):
            other = catalog.build("measure", {term: {**settings, "batch_size": batch_size}}).measure(model)
            assert other.value == pytest.approx(first.value, rel=1e-6)
            assert other.signature == first.signature


@pytest.fixture
def metric(request: pytest.FixtureRequest, tmp_path: Path) -> TextMetric:
    """A metric of texts by its term, with a tiny model where it takes one."""
    term = request.param
    if "model" not in catalog.find("measure", term).model_fields:
        return catalog.build("measure", term)
    save(make_tiny_bert(), tmp_path / "encoder")
    return catalog.build("measure", {term: {"model": str(tmp_path / "encoder")}})


def _rows(metric: TextMetric, times: int = 1) -> tuple[list[str], list[list[str]]]:
    """Predictions and references that the metric can read."""
    for predictions, references in (TEXTS, TAGS, NUMBERS):
        right = references if metric.needs_references else []
        try:
            metric.score(predictions, right)
        except BadRequest:
            continue
        return predictions * times, right * times
    raise AssertionError("no texts for this metric")


def _perfect(metric: TextMetric) -> tuple[list[str], list[list[str]]]:
    _, references = _rows(metric)
    return [each[0] for each in references], references


all_metrics = pytest.mark.parametrize("metric", OF_TEXTS, indirect=True)
with_references = pytest.mark.parametrize(
    "metric", [t for t in OF_TEXTS if catalog.find("measure", t).needs_references], indirect=True
)


@all_metrics
def test_the_order_of_texts_does_not_matter(metric: TextMetric) -> None:
    predictions, references = _rows(metric, 8)
    found = metric.score(predictions, references)
    _is_whole(found, catalog.term_of(metric))
    assert found.interval is not None
    assert metric.score(predictions, references) == found
    assert metric.score(predictions[::-1], references[::-1]).value == pytest.approx(found.value, rel=1e-6)


@with_references
def test_pieces_put_end_to_end_are_the_whole(metric: TextMetric) -> None:
    """The second piece has the same texts in another order, so that columns that stand for classes are the same."""
    predictions, references = _rows(metric)
    pieces = (predictions, references), (predictions[::-1], references[::-1])
    whole = metric.score(*(a + b for a, b in zip(*pieces)))
    if isinstance(metric, AdditiveMetric):
        rows = np.concatenate([metric.statistics(*piece).rows for piece in pieces])
        assert metric.value(rows) == pytest.approx(whole.value, rel=1e-6)
    assert whole.value == pytest.approx(metric.score(predictions, references).value, rel=1e-6)


@with_references
def test_the_references_themselves_are_the_best_predictions(metric: TextMetric) -> None:
    perfect = metric.score(*_perfect(metric)).value
    found = metric.score(*_rows(metric)).value
    assert perfect > found if metric.higher_is_better else perfect < found


@with_references
def test_a_better_system_is_found_better(metric: TextMetric) -> None:
    """Its p-value, and none where there are too few texts; the same system twice has no difference."""
    predictions, references = _rows(metric, 5)
    better = _perfect(metric)[0] * 5
    found = metric.compare(better, predictions, references)
    assert found.difference == found.system.value - found.baseline.value
    assert (found.difference > 0) == metric.higher_is_better
    low, high = found.interval
    assert low <= found.difference <= high
    assert found.p_value < 0.05
    json.dumps(found.to_dict(), allow_nan=False)
    assert metric.compare(predictions, predictions, references).p_value == 1.0
    few = metric.compare(better[:5], predictions[:5], references[:5])
    assert few.p_value is few.interval is few.system.interval is None


@all_metrics
def test_texts_that_do_not_belong_together_are_refused(metric: TextMetric) -> None:
    predictions, references = _rows(metric)
    with pytest.raises(BadRequest, match="no predictions"):
        metric.score([], references)
    with pytest.raises(BadRequest, match="5 predictions, but the baseline has 4"):
        metric.compare(predictions, predictions[1:], references)
    with pytest.raises(BadRequest, match="list of texts"):
        metric.score("a text", references)
    if metric.needs_references:
        with pytest.raises(BadRequest, match="5 predictions, but references for 4"):
            metric.score(predictions, references[1:])
        with pytest.raises(BadRequest, match="Text 2 has no reference"):
            metric.score(predictions, [references[0], [], *references[2:]])
    else:
        with pytest.raises(BadRequest, match="takes no references"):
            metric.score(predictions, [["a"]] * 5)


@with_references
def test_blank_references_say_something_or_are_left_out(metric: TextMetric) -> None:
    predictions, references = _rows(metric)
    blank = [references[0], [" "], *references[2:]]
    if metric.blank_references:
        metric.score(predictions, blank)
        return
    with pytest.raises(BadRequest, match="Text 2 has no reference with any text"):
        metric.score(predictions, blank)
    both = [[*each, ""] for each in references]
    assert metric.score(predictions, both).value == metric.score(predictions, references).value
