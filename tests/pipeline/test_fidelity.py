"""Divergence from the original: zero from itself, and the definition's value from another model."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch

from posttrain.models.language_model import LanguageModel
from posttrain.pipeline.fidelity import mean_divergence, predictions

WORDS = "The quick brown fox jumps over the lazy dog. " * 8


@pytest.fixture
def text(tmp_path: Path) -> str:
    (tmp_path / "text.txt").write_text(WORDS, encoding="utf-8")
    return str(tmp_path / "text.txt")


def _other(model: LanguageModel) -> LanguageModel:
    other = deepcopy(model)
    with torch.no_grad():
        for parameter in other.network.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    return other


def test_from_itself_it_is_zero(tiny_llama: LanguageModel, text: str) -> None:
    first, second = (predictions(tiny_llama, text, 50) for _ in range(2))
    assert len(first.hidden) == 50
    assert mean_divergence(first, second) == 0


def test_agrees_with_the_definition(tiny_llama: LanguageModel, text: str) -> None:
    """sum p (ln p - ln q) of all tokens, in two windows of the context's 128."""
    other = _other(tiny_llama)
    ids = tiny_llama.tokenizer(WORDS)["input_ids"][:150]
    expected = []
    with torch.no_grad():
        for part in (ids[:128], ids[128:]):
            p, q = (m.network(torch.tensor([part])).logits[0].double().log_softmax(-1) for m in (tiny_llama, other))
            expected += (p.exp() * (p - q)).sum(-1).tolist()
    found = mean_divergence(predictions(tiny_llama, text, 150), predictions(other, text, 150))
    assert found == pytest.approx(sum(expected) / len(expected), rel=1e-3)
    assert found > 0.001


def test_a_kept_projection_outlives_a_change_in_place(tiny_llama: LanguageModel, text: str) -> None:
    before = deepcopy(tiny_llama)
    kept = predictions(tiny_llama, text, 40, keep=True)
    with torch.no_grad():
        tiny_llama.network.lm_head.weight.mul_(0.5)
    changed = predictions(tiny_llama, text, 40)
    found = mean_divergence(kept, changed)
    assert found == pytest.approx(mean_divergence(predictions(before, text, 40), changed))
    assert found > 0
