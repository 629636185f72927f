"""QAT through the ordinary loop: better than rounding afterwards, and exactly what rtn makes of it."""

from __future__ import annotations

import json
import math
from copy import deepcopy
from pathlib import Path

import pytest
import torch

from posttrain.adapt.lora import Lora
from posttrain.core.errors import BadRequest
from posttrain.models import sources
from posttrain.models.language_model import LanguageModel
from posttrain.models.saving import save
from posttrain.pipeline.run import run_recipe
from posttrain.quantize.fake_linear import FakeQuantizedLinear
from posttrain.quantize.methods.qat import Qat
from posttrain.quantize.methods.rtn import RoundToNearest

IDS = torch.tensor([[5, 17, 40, 3, 99, 12]])
SENTENCES = [
    "The quick brown fox jumps over the lazy dog.",
    "The dog sleeps, and the fox runs on through the field.",
    "A language model predicts the next token from the tokens that came before it.",
    "There are three things to remember: the rate, the rank and the loss.",
]


def _logits(model: LanguageModel) -> torch.Tensor:
    with torch.no_grad():
        return model.network(IDS).logits


def test_rounding_afterwards_gives_the_very_network(tiny_llama: LanguageModel) -> None:
    for settings in ({"bits": 3, "group_size": 16}, {"bits": 4, "group_size": None, "symmetric": True}):
        model = deepcopy(tiny_llama)
        Qat(**settings).quantize(model)
        matrices = {
            name: module.effective_weight()
            for name, module in model.network.named_modules()
            if isinstance(module, FakeQuantizedLinear)
        }
        assert len(matrices) == 2 * 7
        trained = _logits(model)
        RoundToNearest(**settings).quantize(model)
        for name, matrix in matrices.items():
            assert torch.equal(model.network.get_submodule(name).effective_weight(), matrix)
        torch.testing.assert_close(_logits(model), trained, atol=1e-5, rtol=1e-4)


def test_learned_scales_are_kept(tiny_llama: LanguageModel) -> None:
    Qat(bits=3, group_size=16, learned_scales=True).quantize(tiny_llama)
    with torch.no_grad():
        for module in tiny_llama.network.modules():
            if isinstance(module, FakeQuantizedLinear):
                module.step.mul_(1.1)
    trained = _logits(tiny_llama)
    RoundToNearest(bits=3, group_size=16).quantize(tiny_llama)
    torch.testing.assert_close(_logits(tiny_llama), trained, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("learned", [True, False])
def test_saved_and_loaded_on_the_way(tiny_llama: LanguageModel, tmp_path: Path, learned: bool) -> None:
    Qat(bits=3, group_size=16, learned_scales=learned).quantize(tiny_llama)
    save(tiny_llama, tmp_path / "model")
    loaded = sources.load(str(tmp_path / "model"), device="cpu")
    assert torch.equal(_logits(loaded), _logits(tiny_llama))
    RoundToNearest(bits=3, group_size=16).quantize(loaded)
    save(loaded, tmp_path / "small")
    again = sources.load(str(tmp_path / "small"), device="cpu")
    assert torch.equal(_logits(again), _logits(loaded))


def test_a_tied_projection_stays_tied(tiny_llama: LanguageModel, tmp_path: Path) -> None:
    Qat(targets=["mlp", "lm_head"]).quantize(tiny_llama)
    network = tiny_llama.network
    assert network.lm_head.weight is network.model.embed_tokens.weight
    save(tiny_llama, tmp_path / "model")
    loaded = sources.load(str(tmp_path / "model"), device="cpu").network
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight


def test_low_rank_matrices_are_rounded_with_the_weights(tiny_llama: LanguageModel) -> None:
    """Merging them changes nothing, to the bit; beside rounded weights it would."""
    Qat(bits=3, group_size=16).quantize(tiny_llama)
    base = _logits(tiny_llama)
    adapter = Lora(rank=4, targets="all-linear")
    adapter.apply(tiny_llama.network)
    assert torch.equal(_logits(tiny_llama), base)
    with torch.no_grad():
        for parameter in adapter.trainable(tiny_llama.network).values():
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    adapted = _logits(tiny_llama)
    assert not torch.equal(adapted, base)
    with adapter.disabled(tiny_llama.network):
        assert torch.equal(_logits(tiny_llama), base)
    loss = tiny_llama.network(IDS, labels=IDS).loss
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in adapter.trainable(tiny_llama.network).values())
    adapter.merge(tiny_llama.network)
    assert torch.equal(_logits(tiny_llama), adapted)
    RoundToNearest(bits=3, group_size=16).quantize(tiny_llama)
    torch.testing.assert_close(_logits(tiny_llama), adapted, atol=1e-5, rtol=1e-4)


def test_a_second_time_is_refused(tiny_llama: LanguageModel) -> None:
    Qat().quantize(tiny_llama)
    with pytest.raises(BadRequest, match="is quantized already"):
        Qat(bits=8).quantize(tiny_llama)
    assert not Qat.final


def test_it_beats_rounding_afterwards(tiny_llama: LanguageModel, tmp_path: Path) -> None:
    """Two bits: the same steps on the same data, once before rounding and once with it, by recipe."""
    save(tiny_llama, tmp_path / "model")
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in SENTENCES))
    shared = {"data": str(data), "batch_size": 4, "learning_rate": 3e-3, "objective": "language_modeling"}
    grid = {"bits": 2, "group_size": -1}
    method = {"text": str(data), "max_tokens": 256}
    recipe = {
        "name": "qat",
        "model": str(tmp_path / "model"),
        "steps": [
            {"train": {"name": "learned", "adapt": "full", "steps": 60, **shared}},
            {"train": {"name": "longer", "adapt": "full", "steps": 40, **shared}},
            {"quantize": {"name": "afterwards", "rtn": grid, **method}},
            {"quantize": {"name": "prepared", "qat": grid, "from": "learned", **method}},
            {"train": {"name": "aware", "adapt": "full", "steps": 40, **shared}},
            {"quantize": {"name": "final", "rtn": grid, **method}},
            {"quantize": {"name": "prepared-lora", "qat": grid, "from": "learned", **method}},
            {
                "train": {
                    "name": "aware-lora",
                    "adapt": {"lora": {"rank": 16, "targets": "all-linear"}},
                    "steps": 40,
                    **shared,
                }
            },
            {"merge": {}},
            {"quantize": {"name": "final-lora", "rtn": grid, **method}},
        ],
    }
    steps = {step["name"]: step["result"] for step in run_recipe(recipe, out=tmp_path / "run")["steps"]}
    assert steps["prepared"]["success"]
    loss = {name: math.log(step["perplexity_after"]) for name, step in steps.items() if "perplexity_after" in step}
    assert loss["final"] < 0.8 * loss["afterwards"]
    assert loss["final-lora"] < 0.8 * loss["prepared"]
    # What was trained is what is left after rounding for good.
    assert steps["final"]["perplexity_before"] == pytest.approx(steps["final"]["perplexity_after"], rel=1e-3)
    assert steps["final-lora"]["perplexity_before"] == pytest.approx(steps["final-lora"]["perplexity_after"], rel=1e-3)
