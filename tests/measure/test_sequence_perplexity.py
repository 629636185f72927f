"""Sequence-normalised perplexity: means of the losses that transformers gives each text alone."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from posttrain.core.errors import Failure
from posttrain.measure import _token_losses
from posttrain.measure.perplexity import Perplexity
from posttrain.measure.sequence_perplexity import SequencePerplexity
from posttrain.models.language_model import LanguageModel

TEXTS = ["The quick brown fox", "Rain fell all night, and the river rose over the road.", "It is forty-two."]


@pytest.fixture
def texts(tmp_path: Path) -> str:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(TEXTS) + "\n")
    return str(path)


def means_of(model: LanguageModel) -> list[float]:
    """The class's own mean loss of each text alone."""
    found = []
    for text in TEXTS:
        ids = model.tokenizer(text, return_tensors="pt").input_ids
        with torch.no_grad():
            found.append(float(model.network(input_ids=ids, labels=ids).loss))
    return found


def test_texts_weigh_alike(tiny_llama: LanguageModel, texts: str) -> None:
    means = means_of(tiny_llama)
    found = SequencePerplexity(text=texts).measure(tiny_llama)
    assert found.value == pytest.approx(math.exp(np.mean(means)), rel=1e-5)
    assert found.parts["nll"] == pytest.approx(np.mean(means), rel=1e-5)
    assert found.parts["texts"] == 3
    assert found.interval is None  # too few texts for one
    other = SequencePerplexity(text=texts, average="arithmetic").measure(tiny_llama)
    assert other.value == pytest.approx(np.mean(np.exp(means)), rel=1e-5)
    assert other.parts["median"] == pytest.approx(math.exp(sorted(means)[1]), rel=1e-5)
    assert other.signature != found.signature


def test_it_is_not_the_perplexity_of_the_corpus(tiny_llama: LanguageModel, tmp_path: Path) -> None:
    """They differ for texts of unequal length and difficulty; where every token costs ln 300, all are 300."""
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    found = SequencePerplexity(text=str(path)).measure(tiny_llama)
    corpus = Perplexity(text=str(path)).measure(tiny_llama)
    assert found.parts["corpus_perplexity"] == pytest.approx(corpus.value, rel=1e-6)
    assert abs(found.value / corpus.value - 1) > 1e-4
    with torch.no_grad():
        tiny_llama.network.lm_head.weight.zero_()
    for average in ("geometric", "arithmetic"):
        level = SequencePerplexity(text=str(path), average=average).measure(tiny_llama)
        assert level.value == pytest.approx(300, rel=1e-5) == level.parts["corpus_perplexity"]


def test_many_texts_have_an_interval_of_texts(tiny_llama: LanguageModel, tmp_path: Path) -> None:
    path = tmp_path / "many.txt"
    path.write_text("".join(f"The fox number {n} {'sleeps ' * (n % 4)}here.\n" for n in range(24)))
    for average in ("geometric", "arithmetic"):
        found = SequencePerplexity(text=str(path), average=average).measure(tiny_llama)
        assert found.interval is not None
        assert found.interval[0] < found.value < found.interval[1]


def test_a_file_may_be_one_text(tiny_llama: LanguageModel, texts: str) -> None:
    assert SequencePerplexity(text=texts, lines=False).measure(tiny_llama).parts["texts"] == 1


def test_a_text_whose_perplexity_is_beyond_all_numbers(
    tiny_llama: LanguageModel, texts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mean nats of 1, 2 and 900: exp(301) is a number, exp(900) none, and so neither is a mean with it."""
    losses = [np.full(3, value, dtype=np.float32) for value in (1, 2, 900)]
    monkeypatch.setattr(_token_losses, "token_losses", lambda *_, **__: losses)
    found = SequencePerplexity(text=texts).measure(tiny_llama)
    assert found.value == pytest.approx(math.exp(301))
    assert found.to_dict()["arithmetic_mean"] == math.inf and found.parts["median"] == pytest.approx(math.exp(2))
    with pytest.raises(Failure, match="arithmetic mean of the texts' perplexities is no number: one text costs 900"):
        SequencePerplexity(text=texts, average="arithmetic").measure(tiny_llama)
