"""compressed-tensors: packing by hand, the description, and what the package and transformers make of the folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from posttrain.core.errors import BadRequest, Failure
from posttrain.models.exports.compressed_tensors import CompressedTensors, pack_words
from posttrain.models.language_model import LanguageModel
from posttrain.models.surgery import IntegerWeight, integer_weight
from posttrain.quantize.methods.dynamic import Dynamic
from posttrain.quantize.methods.gptq import Gptq
from posttrain.quantize.methods.rtn import RoundToNearest

IDS = torch.tensor([[5, 17, 40, 3, 99, 12]])
CALIBRATION = [[i % 290 + 3 for i in range(start, start + 32)] for start in range(0, 320, 20)]
Q_PROJ = "model.layers.0.self_attn.q_proj"


def exported(model: LanguageModel, folder: Path, **settings: Any) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors and configuration of the written folder."""
    CompressedTensors.parse(settings).write(model, folder)
    return load_file(folder / "model.safetensors"), json.loads((folder / "config.json").read_text())


def logits(network: Any) -> torch.Tensor:
    with torch.no_grad():
        return network(IDS).logits.float()


def test_words_by_hand() -> None:
    """Nine codes of four bits, 1 … 9: the first eight make 0x87654321, which as int32 is 0x87654321 - 2^32; the ninth
    begins a second word. Two codes of eight bits, 255 and 1, make 0x01FF."""
    codes = torch.arange(1, 10, dtype=torch.uint8)[None]
    assert pack_words(codes, 4).tolist() == [[0x87654321 - (1 << 32), 9]]
    assert pack_words(torch.tensor([[255, 1]], dtype=torch.uint8), 8).tolist() == [[0x01FF]]
    assert pack_words(codes, 4).dtype == torch.int32


@pytest.mark.parametrize("symmetric", [True, False])
def test_what_is_written_amounts_to_the_layer(tiny_llama: LanguageModel, tmp_path: Path, symmetric: bool) -> None:
    """Unpacked by plain arithmetic on Python's integers, without the code that packs."""
    RoundToNearest(group_size=32, symmetric=symmetric).quantize(tiny_llama)
    tensors, _ = exported(tiny_llama, tmp_path / "out")
    assert not any(name.startswith(f"{Q_PROJ}.weight") for name in tensors if name == f"{Q_PROJ}.weight")
    outputs, inputs = tensors[f"{Q_PROJ}.weight_shape"].tolist()
    assert (outputs, inputs) == (64, 64)
    scale = tensors[f"{Q_PROJ}.weight_scale"].float()
    assert scale.shape == (64, 2)

    def code(words: list[int], place: int) -> int:
        return (words[place // 8] >> (4 * (place % 8))) & 15

    rows = tensors[f"{Q_PROJ}.weight_packed"].tolist()
    expected = tiny_llama.network.get_submodule(Q_PROJ).effective_weight()
    zeros = None if symmetric else tensors[f"{Q_PROJ}.weight_zero_point"].T.tolist()  # [groups][words]
    assert symmetric == (f"{Q_PROJ}.weight_zero_point" not in tensors)
    for output in (0, 7, 8, 63):
        for place in (0, 1, 31, 32, 63):
            zero = 8 if zeros is None else code(zeros[place // 32], output)
            value = (code(rows[output], place) - zero) * float(scale[output, place // 32])
            assert value == float(expected[output, place])


def test_the_description(tiny_llama: LanguageModel, tmp_path: Path) -> None:
    RoundToNearest(bits=4, group_size=64).quantize(tiny_llama)
    found = CompressedTensors().write(tiny_llama, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert (config["quant_method"], config["format"]) == ("compressed-tensors", "pack-quantized")
    assert config["ignore"] == ["lm_head"]
    groups = list(config["config_groups"].values())
    # Layers of 64 inputs are one group a channel.
    told = [(group["weights"]["strategy"], group["weights"]["group_size"]) for group in groups]
    assert told == [("channel", None), ("group", 64)]
    assert groups[1]["targets"] == [f"model.layers.{n}.mlp.down_proj" for n in range(2)]
    assert (found["layers"], found["bits"], found["layers_not_quantized"]) == (14, [4], 1)
    assert found["bytes"] == sum(path.stat().st_size for path in (tmp_path / "out").iterdir())


def test_parts_left_as_they_are(tiny_llama: LanguageModel, tmp_path: Path) -> None:
    """Attention in eight bits, the rest plain; the head is tied and written once."""
    RoundToNearest(bits=8, group_size=32, targets="attention").quantize(tiny_llama)
    tensors, config = exported(tiny_llama, tmp_path / "out", dtype="float32")
    description = config["quantization_config"]
    assert set(description["ignore"]) == {"lm_head"} | {name for name in description["ignore"] if ".mlp." in name}
    assert len(description["ignore"]) == 7
    assert description["config_groups"]["group_0"]["targets"] == ["Linear"]
    plain = "model.layers.1.mlp.up_proj.weight"
    assert torch.equal(tensors[plain], tiny_llama.network.get_parameter(plain).data)
    assert "lm_head.weight" not in tensors and "model.embed_tokens.weight" in tensors
    assert (config["dtype"], config["tie_word_embeddings"]) == ("float32", True)


@pytest.mark.parametrize(
    ("quantizer", "sentence"),
    [
        (None, "No layer of the model is made of integers"),
        (RoundToNearest(bits=3), "has 3 bits a weight"),
        (RoundToNearest(group_size=48), "aren't a multiple of its groups of 48"),
        (Gptq(act_order=True, static_groups=False), "in order of their importance"),
    ],
)
def test_what_has_no_place_is_refused(tiny_llama: LanguageModel, tmp_path: Path, quantizer: Any, sentence: str) -> None:
    if quantizer is not None:
        quantizer.quantize(tiny_llama, CALIBRATION)
    with pytest.raises(BadRequest, match=sentence):
        CompressedTensors().write(tiny_llama, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_gpt2_is_refused(tiny_llama: LanguageModel, tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    tiny_llama.network = GPT2LMHeadModel(GPT2Config(vocab_size=300, n_embd=64, n_layer=1, n_head=4, n_positions=32))
    RoundToNearest().quantize(tiny_llama)
    with pytest.raises(BadRequest, match=r"was no nn\.Linear"):
        CompressedTensors().write(tiny_llama, tmp_path / "out")


def test_numbers_beyond_the_type_are_told(tiny_llama: LanguageModel, tmp_path: Path) -> None:
    RoundToNearest(group_size=32).quantize(tiny_llama)
    tiny_llama.network.model.norm.weight.data[0] = 1e6
    with pytest.raises(Failure, match=r"model\.norm\.weight holds numbers that float16 can't"):
        CompressedTensors().write(tiny_llama, tmp_path / "out")
    CompressedTensors(dtype="bfloat16").write(tiny_llama, tmp_path / "out")


def test_int8_layers_are_moved_up(tiny_llama: LanguageModel) -> None:
    """-127 … 127 become 1 … 255, counted from 128."""
    Dynamic().quantize(tiny_llama)
    layer = tiny_llama.network.get_submodule(Q_PROJ)
    found = integer_weight(layer)
    assert isinstance(found, IntegerWeight)
    assert (int(found.codes.min()), int(found.codes.max())) == (1, 255)
    assert torch.equal((found.codes.float() - 128) * found.scale, layer.effective_weight())


QUANTIZERS = {
    "rtn": RoundToNearest(group_size=32),
    "symmetric": RoundToNearest(group_size=32, symmetric=True),
    "channel": RoundToNearest(bits=8, group_size=-1),
    "two bits": RoundToNearest(bits=2, group_size=16),
    "gptq": Gptq(group_size=32),
    "int8": Dynamic(),
    "attention": RoundToNearest(group_size=32, targets="attention"),
}


@pytest.mark.filterwarnings("ignore:You passed `quantization_config`")
@pytest.mark.parametrize("dequantize", [True, False])
@pytest.mark.parametrize("name", QUANTIZERS)
def test_transformers_computes_the_same(tiny_llama: LanguageModel, tmp_path: Path, name: str, dequantize: bool) -> None:
    """Loaded by transformers through the package of the format's makers; int8 layers round activations only here.

    Kept packed, transformers 5.24 with compressed-tensors 0.20 expects zero-points that aren't packed."""
    pytest.importorskip("compressed_tensors", reason="the package compressed-tensors isn't installed")
    from transformers import AutoModelForCausalLM
    from transformers.utils.quantization_config import CompressedTensorsConfig

    quantizer = QUANTIZERS[name]
    if not dequantize and not getattr(quantizer, "symmetric", True):
        pytest.skip("the package doesn't read packed zero-points where weights stay packed")
    quantizer.quantize(tiny_llama, CALIBRATION)
    CompressedTensors(dtype="float32").write(tiny_llama, tmp_path / "out")
    how = {"quantization_config": CompressedTensorsConfig(dequantize=True)} if dequantize else {}
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32, **how).eval()
    tolerance = 3e-2 if name == "int8" else 1e-5
    torch.testing.assert_close(logits(loaded), logits(tiny_llama.network), rtol=1e-4, atol=tolerance)


def test_the_package_unpacks_the_same_matrix(tiny_llama: LanguageModel, tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors", reason="the package compressed-tensors isn't installed")
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationScheme

    RoundToNearest(group_size=32).quantize(tiny_llama)
    tensors, config = exported(tiny_llama, tmp_path / "out")
    scheme = QuantizationScheme(**config["quantization_config"]["config_groups"]["group_0"])
    state = {key.rpartition(".")[2]: value for key, value in tensors.items() if key.startswith(f"{Q_PROJ}.")}
    found = BaseCompressor.get_value_from_registry("pack-quantized").decompress(state, scheme)["weight"]
    expected = tiny_llama.network.get_submodule(Q_PROJ).effective_weight()
    torch.testing.assert_close(found.float(), expected, rtol=2e-3, atol=0)  # it multiplies in float16
