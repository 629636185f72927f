"""The quantize step: what it reports, what it calibrates with, and what counts as a success."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from posttrain.core.errors import BadRequest
from posttrain.models.language_model import LanguageModel
from posttrain.pipeline.single_step import single_step
from posttrain.pipeline.steps.quantize import Quantize

WORDS = "The quick brown fox jumps over the lazy dog. " * 30


@pytest.fixture
def text(tmp_path: Path) -> str:
    (tmp_path / "text.txt").write_text(WORDS, encoding="utf-8")
    return str(tmp_path / "text.txt")


def _run(model: LanguageModel, method: object, text: str, **settings: object) -> dict:
    return single_step("quantize", {"method": method, "text": text, "max_tokens": 90, **settings}, model).result


def test_report(tiny_llama: LanguageModel, text: str) -> None:
    """4 bits, 2 bytes and half a byte for every 64 weights, rounded up to a whole one a row of one or two groups."""
    tiny_llama.reference = "tiny"
    weights = sum(m.weight.numel() for n, m in tiny_llama.network.named_modules() if n.endswith("_proj"))
    rows = sum(m.weight.shape[0] for n, m in tiny_llama.network.named_modules() if n.endswith("_proj"))
    found = _run(tiny_llama, {"rtn": {"group_size": 64}}, text, allow_slower=True)
    assert found["bits_per_weight_before"] == 32
    assert found["bits_per_weight_after"] == pytest.approx(4 + 16 / 64 + 8 * rows / weights)
    assert found["size_ratio"] == found["bytes_before"] / found["bytes_after"] > 1
    assert found["perplexity_ratio"] == found["perplexity_after"] / found["perplexity_before"]
    assert found["kl_to_original"] > 0
    low, high = found["interval_after"]
    assert low < found["perplexity_after"] < high
    assert found["quantize_seconds"] > 0
    json.dumps(found)


def test_more_bits_diverge_less(tiny_llama: LanguageModel, text: str, tmp_path: Path) -> None:
    from copy import deepcopy

    values = [
        _run(deepcopy(tiny_llama), {"rtn": {"bits": bits}}, text, allow_slower=True)["kl_to_original"]
        for bits in (2, 4, 8)
    ]
    assert values[0] > 10 * values[1] > 100 * values[2] >= 0


def test_the_original_projection_is_what_it_is_compared_with(tiny_llama: LanguageModel, text: str) -> None:
    method = {"rtn": {"bits": 2, "targets": ["lm_head"]}}
    assert _run(tiny_llama, method, text, allow_slower=True)["kl_to_original"] > 0


@pytest.mark.parametrize(("speeds", "success", "final"), [((10, 9), False, True), ((10, 11), True, True)])
def test_slower_is_no_success(
    tiny_llama: LanguageModel, text: str, monkeypatch: pytest.MonkeyPatch, speeds: tuple, success: bool, final: bool
) -> None:
    from posttrain.pipeline.steps import quantize

    given = iter(speeds)
    monkeypatch.setattr(quantize, "tokens_per_second", lambda _: next(given))
    outcome = single_step("quantize", {"rtn": {}, "text": text, "max_tokens": 60}, tiny_llama)
    assert outcome.result["success"] is success
    assert ("slower" in str(outcome.views[-1])) is not success


def test_what_only_prepares_training_may_be_slower(
    tiny_llama: LanguageModel, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from posttrain.pipeline.steps import quantize

    given = iter((10, 5))
    monkeypatch.setattr(quantize, "tokens_per_second", lambda _: next(given))
    found = single_step("quantize", {"qat": {}, "text": text, "max_tokens": 60}, tiny_llama).result
    assert found["success"] is True


def _calibration(model: LanguageModel, **settings: object) -> list[list[int]]:
    step = Quantize.parse({"method": {"gptq": {}}, **settings})
    return [list(sequence) for sequence in step.sequences(model) or []]


def test_calibration_by_default_is_another_text_than_the_measured_one(tiny_llama: LanguageModel) -> None:
    step = Quantize.parse({"gptq": {}})
    assert step._source == "builtin:handbook" != step.text
    assert Quantize.parse({"rtn": {}})._source is None
    assert Quantize.parse({"rtn": {}}).sequences(tiny_llama) is None
    found = _calibration(tiny_llama, calibration_rows=5, calibration_length=64)
    assert [len(sequence) for sequence in found] == [64] * 5
    first = tiny_llama.tokenizer.decode(found[0])
    assert first.startswith(json.loads(_handbook().read_text().splitlines()[0])["prompt"][:20])
    assert all(len(s) == 128 for s in _calibration(tiny_llama))  # the model's context is shorter than 256


def _handbook() -> Path:
    import posttrain.data

    return Path(posttrain.data.__file__).parent / "builtin" / "handbook.jsonl"


def test_calibration_is_spread_evenly(tiny_llama: LanguageModel, tmp_path: Path) -> None:
    """Of 10 sequences that the text makes, 4 are numbers 0, 2, 5 and 7."""
    words = " ".join(f"number {i}" for i in range(400))
    (tmp_path / "text.txt").write_text(words, encoding="utf-8")
    ids = tiny_llama.tokenizer(words)["input_ids"]
    length = len(ids) // 10
    found = _calibration(
        tiny_llama, calibration=str(tmp_path / "text.txt"), calibration_rows=4, calibration_length=min(length, 128)
    )
    pieces = [ids[i : i + len(found[0])] for i in range(0, len(ids), len(found[0]))]
    assert all(sequence in pieces for sequence in found)
    assert pieces.index(found[-1]) > len(pieces) // 2


def test_what_is_measured_is_not_calibrated_on(tiny_llama: LanguageModel, tmp_path: Path) -> None:
    """Of one text the first 100 tokens are measured; calibration begins behind them."""
    path = tmp_path / "text.txt"
    path.write_text(" ".join(f"number {i}" for i in range(200)), encoding="utf-8")
    ids = tiny_llama.tokenizer(path.read_text(encoding="utf-8"))["input_ids"]
    found = _calibration(tiny_llama, calibration=str(path), text=str(path), max_tokens=100, calibration_length=32)
    assert found[0] == ids[100:132]


@pytest.mark.parametrize(
    "row",
    [{"text": WORDS}, {"prompt": "What? ", "completion": WORDS}, {"text": WORDS, "label": "animal"}],
    ids=["text", "completion", "labelled"],
)
def test_calibration_takes_several_kinds_of_records(tiny_llama: LanguageModel, row: dict, tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    found = _calibration(tiny_llama, calibration=str(path), calibration_length=64)
    assert found
    assert "fox" in tiny_llama.tokenizer.decode(found[0])


def test_too_little_calibration_text_is_refused(tiny_llama: LanguageModel, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("The dog sleeps.", encoding="utf-8")
    with pytest.raises(BadRequest, match=r"has \d+ tokens for calibration, and one calibration sequence takes 128"):
        _calibration(tiny_llama, calibration=str(tmp_path / "short.txt"))


def test_what_cannot_be_quantized_is_refused_before_anything_is_measured(
    tiny_llama: LanguageModel, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from posttrain.pipeline.steps import quantize

    monkeypatch.setattr(quantize, "tokens_per_second", lambda _: pytest.fail("measured"))
    with pytest.raises(BadRequest, match="is an embedding"):
        _run(tiny_llama, {"rtn": {"targets": "embeddings"}}, text)


def test_gptq_from_the_step(tiny_llama: LanguageModel, text: str) -> None:
    found = _run(tiny_llama, {"gptq": {}}, text, calibration=text, calibration_length=64, allow_slower=True)
    assert found["perplexity_ratio"] == pytest.approx(1, abs=0.1)
    with torch.no_grad():
        assert tiny_llama.network(torch.tensor([[5, 17]])).logits.isfinite().all()


def test_a_ruined_model_is_no_success(tiny_llama: LanguageModel, text: str) -> None:
    """A network that knows the text by heart, reduced to signs: smaller, perhaps faster, and of no use."""
    ids = torch.tensor([tiny_llama.tokenizer(WORDS)["input_ids"][:90]])
    optimizer = torch.optim.AdamW(tiny_llama.network.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        tiny_llama.network(ids, labels=ids).loss.backward()
        optimizer.step()
    settings = {"method": {"binary": {}}, "text": text, "max_tokens": 90, "allow_slower": True}
    outcome = single_step("quantize", settings, tiny_llama)
    found = outcome.result
    assert found["perplexity_before"] < 2 and found["perplexity_ratio"] > 2
    assert found["success"] is False
    assert "ruined" in str(outcome.headline) and "The model is ruined" in outcome.views[-1]["text"]
    assert outcome.views[-1]["tone"] == "warning"
