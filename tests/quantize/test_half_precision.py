"""Half precision of a network: what is stored, what is refused, and what it costs on a real model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from posttrain.adapt.lora import Lora
from posttrain.core.errors import Failure
from posttrain.measure.perplexity import Perplexity
from posttrain.models.language_model import LanguageModel
from posttrain.models.saving import save
from posttrain.models.sources import load
from posttrain.quantize.methods.half_precision import HalfPrecision


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_kept_in_its_type_in_memory_and_on_disk(tiny_llama: LanguageModel, tmp_path: Path, dtype: str) -> None:
    from safetensors import safe_open

    HalfPrecision(dtype=dtype).quantize(tiny_llama)
    name = "model.layers.0.mlp.up_proj.weight"
    assert str(tiny_llama.network.get_submodule(name.rpartition(".")[0]).weight.dtype) == f"torch.{dtype}"
    save(tiny_llama, tmp_path / "half")
    with safe_open(tmp_path / "half" / "model.safetensors", "pt") as file:
        assert file.get_slice(name).get_dtype() == {"float16": "F16", "bfloat16": "BF16"}[dtype]
        assert file.get_slice("model.embed_tokens.weight").get_dtype() == "F32"


def test_what_is_too_large_is_told(tiny_llama: LanguageModel) -> None:
    layer = tiny_llama.network.model.layers[0].mlp.up_proj
    layer.weight.data[0, 0] = 1e5
    with pytest.raises(Failure, match=r"up_proj has weights that are .* too large for float16"):
        HalfPrecision(dtype="float16").quantize(tiny_llama)
    HalfPrecision(dtype="bfloat16", targets="model.layers.0.mlp.up_proj").quantize(tiny_llama)


def test_what_is_trained_beside_it_is_float32(tiny_llama: LanguageModel) -> None:
    HalfPrecision().quantize(tiny_llama)
    adapter = Lora(rank=2, targets="all-linear")
    adapter.apply(tiny_llama.network)
    assert {parameter.dtype for parameter in adapter.trainable(tiny_llama.network).values()} == {torch.float32}


@pytest.mark.real_model
@pytest.mark.parametrize(("dtype", "most"), [("float16", 1.001), ("bfloat16", 1.02)])
def test_next_to_nothing_is_lost(dtype: str, most: float) -> None:
    model = load("smollm2", device="cpu")
    metric = Perplexity(max_tokens=512)
    before = metric.measure(model).value
    HalfPrecision(dtype=dtype).quantize(model)
    assert 1 / most < metric.measure(model).value / before < most
