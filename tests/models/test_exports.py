"""Exports: the contract of the family, and each form read back by its own library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

import posttrain
from posttrain.adapt.bitfit import Bitfit
from posttrain.adapt.lora import Lora
from posttrain.core import catalog, files
from posttrain.core.errors import BadRequest, Failure
from posttrain.core.settings import help_of
from posttrain.models import sources
from posttrain.models.exports import Export
from posttrain.models.exports.gguf import Gguf
from posttrain.models.exports.peft import Peft
from posttrain.models.language_model import CARD_FILE, LanguageModel
from posttrain.quantize.methods.rtn import RoundToNearest
from posttrain.quantize.methods.static import Static
from tiny_models import make_tiny_llama

IDS = torch.tensor([[5, 17, 40, 3, 99, 12]])
SIZES: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def _logits(model: LanguageModel) -> torch.Tensor:
    with torch.no_grad():
        return model.network(IDS).logits


def _with(network_class: Any, config: Any) -> LanguageModel:
    model = make_tiny_llama()
    torch.manual_seed(0)
    model.network = network_class(config).eval()
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model


def _exported(model: LanguageModel, path: Path, **settings: Any) -> Any:
    """The file, opened by the gguf package's own reader."""
    from gguf import GGUFReader

    Gguf.parse(settings).write(model, path)
    return GGUFReader(path)


def _value(reader: Any, key: str) -> Any:
    return reader.fields[key].contents()


# The contract.


@pytest.mark.parametrize("term", catalog.terms("export"))
def test_every_form_documents_itself_and_writes_whole(term: str, tiny_llama: LanguageModel, tmp_path: Path) -> None:
    """What a form can't hold is refused with nothing written; what is written replaces what was there."""
    form: Export = catalog.build("export", term)
    assert all(help_of(type(form)).values())
    place = tmp_path / f"model{form.suffix}"
    adapted = make_tiny_llama()
    adapted.adapter = Lora(rank=2)
    adapted.adapter.apply(adapted.network)
    quantized = make_tiny_llama()
    RoundToNearest(group_size=32).quantize(quantized)
    written = 0
    for model in (tiny_llama, adapted, quantized):
        before = model.fingerprint()
        try:
            found = form.write(model, place)
        except BadRequest:
            assert not place.exists() or written
        else:
            written += 1
            assert found["bytes"] == files.folder_bytes(place)
            assert form.write(model, place) == found
        assert model.fingerprint() == before
    assert 1 <= written < 3
    assert [entry.name for entry in tmp_path.iterdir()] == [place.name]


# GGUF: what is in the file.


def test_names_types_and_sizes(tiny_llama: LanguageModel, tmp_path: Path) -> None:
    reader = _exported(tiny_llama, tmp_path / "m.gguf")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    block = ["attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down"]
    expected = {f"blk.{i}.{part}.weight" for i in range(2) for part in block}
    assert set(tensors) == expected | {"token_embd.weight", "output_norm.weight"}  # the head is the embedding
    assert tensors["blk.0.attn_k.weight"].tensor_type.name == "F16"
    assert tensors["blk.0.attn_norm.weight"].tensor_type.name == "F32"
    assert tensors["blk.0.ffn_down.weight"].shape.tolist() == [128, 64]
    for key, value in {
        "general.architecture": "llama",
        "general.file_type": 1,
        "llama.block_count": 2,
        "llama.context_length": 128,
        "llama.embedding_length": 64,
        "llama.feed_forward_length": 128,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.rope.dimension_count": 16,
        "llama.rope.freq_base": 10_000.0,
        "llama.vocab_size": 300,
    }.items():
        assert _value(reader, key) == value, key


def test_query_rows_by_hand(tmp_path: Path) -> None:
    """One head of 8: transformers pairs channel i with i + 4, llama.cpp 2i with 2i + 1: 0 4 1 5 2 6 3 7."""
    sizes = {**SIZES, "hidden_size": 8, "num_attention_heads": 1, "num_key_value_heads": 1, "num_hidden_layers": 1}
    model = _with(LlamaForCausalLM, LlamaConfig(**sizes, attention_bias=True))
    attention = model.network.model.layers[0].self_attn
    with torch.no_grad():
        attention.q_proj.weight.copy_(torch.arange(8.0)[:, None].expand(8, 8))
        attention.q_proj.bias.copy_(torch.arange(8.0))
        attention.v_proj.weight.copy_(attention.q_proj.weight)
    tensors = {t.name: np.asarray(t.data) for t in _exported(model, tmp_path / "m.gguf", type="f32").tensors}
    assert tensors["blk.0.attn_q.weight"][:, 0].tolist() == [0, 4, 1, 5, 2, 6, 3, 7]
    assert tensors["blk.0.attn_q.bias"].tolist() == [0, 4, 1, 5, 2, 6, 3, 7]
    assert tensors["blk.0.attn_v.weight"][:, 0].tolist() == list(range(8))


def test_tokenizer_and_template(tiny_llama: LanguageModel, tmp_path: Path) -> None:
    reader = _exported(tiny_llama, tmp_path / "m.gguf")
    state = json.loads(tiny_llama.tokenizer.backend_tokenizer.to_str())
    assert _value(reader, "tokenizer.ggml.model") == "gpt2"
    assert _value(reader, "tokenizer.ggml.pre") == "gpt-2"
    tokens = _value(reader, "tokenizer.ggml.tokens")
    assert len(tokens) == 300
    assert [tokens.index(token) for token in state["model"]["vocab"]] == list(state["model"]["vocab"].values())
    assert _value(reader, "tokenizer.ggml.merges") == [" ".join(pair) for pair in state["model"]["merges"]]
    assert _value(reader, "tokenizer.ggml.token_type")[:4] == [3, 3, 3, 1]  # control, and an ordinary one
    assert [_value(reader, f"tokenizer.ggml.{key}_token_id") for key in ("bos", "eos", "unknown", "padding")] == [
        1,
        2,
        0,
        0,
    ]
    assert _value(reader, "tokenizer.ggml.add_bos_token") is False
    assert _value(reader, "tokenizer.chat_template") == tiny_llama.tokenizer.chat_template


def test_rows_beyond_the_vocabulary_are_unused_tokens(tiny_llama: LanguageModel, tmp_path: Path) -> None:
    tiny_llama.network.resize_token_embeddings(304, mean_resizing=False)
    reader = _exported(tiny_llama, tmp_path / "m.gguf")
    assert _value(reader, "tokenizer.ggml.tokens")[299:] != []
    assert _value(reader, "tokenizer.ggml.tokens")[300:] == [f"[PAD{i}]" for i in range(300, 304)]
    assert _value(reader, "tokenizer.ggml.token_type")[300:] == [5] * 4


def test_types_of_fewer_bits_keep_the_embedding(tiny_llama: LanguageModel, tmp_path: Path) -> None:
    for kind, embedding in (("q8_0", "Q8_0"), ("q4_0", "Q8_0"), ("q5_1", "Q8_0"), ("bf16", "BF16")):
        tensors = {t.name: t.tensor_type.name for t in _exported(tiny_llama, tmp_path / "m.gguf", type=kind).tensors}
        assert tensors["token_embd.weight"] == embedding
        assert tensors["blk.0.ffn_up.weight"] == kind.upper()


def test_rows_that_fill_no_block_stay_in_half_precision(tmp_path: Path) -> None:
    model = _with(LlamaForCausalLM, LlamaConfig(**{**SIZES, "intermediate_size": 100}))
    tensors = {t.name: t.tensor_type.name for t in _exported(model, tmp_path / "m.gguf", type="q8_0").tensors}
    assert tensors["blk.0.ffn_down.weight"] == "F16"
    assert tensors["blk.0.ffn_up.weight"] == "Q8_0"


def test_llama_3_positions(tmp_path: Path) -> None:
    """Factors after the authors' code: 1 for short waves, 8 for long ones, in between a blend of both."""
    rope = {"rope_type": "llama3", "rope_theta": 10_000.0, "factor": 8.0, "original_max_position_embeddings": 64}
    rope |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    model = _with(LlamaForCausalLM, LlamaConfig(**SIZES, rope_parameters=rope))
    reader = _exported(model, tmp_path / "m.gguf")
    (found,) = [np.asarray(t.data) for t in reader.tensors if t.name == "rope_freqs.weight"]
    expected = []
    for index in range(8):
        wave = 2 * np.pi * 10_000 ** (2 * index / 16)
        if wave < 64 / 4:
            expected.append(1.0)
        elif wave > 64 / 1:
            expected.append(8.0)
        else:
            smooth = (64 / wave - 1) / (4 - 1)
            expected.append(1 / ((1 - smooth) / 8 + smooth))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_linear_positions_and_a_window(tmp_path: Path) -> None:
    model = _with(MistralForCausalLM, MistralConfig(**SIZES, sliding_window=32))
    reader = _exported(model, tmp_path / "m.gguf")
    assert _value(reader, "llama.context_length") == 32  # as far as full attention is the same
    rope = {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0}
    model = _with(LlamaForCausalLM, LlamaConfig(**SIZES, rope_parameters=rope))
    reader = _exported(model, tmp_path / "m.gguf")
    assert _value(reader, "llama.rope.scaling.type") == "linear"
    assert _value(reader, "llama.rope.scaling.factor") == 4.0


# GGUF: read back by our own source.


@pytest.mark.parametrize(
    ("network_class", "config"),
    [
        (LlamaForCausalLM, LlamaConfig(**SIZES, tie_word_embeddings=True)),
        (LlamaForCausalLM, LlamaConfig(**SIZES)),
        (Qwen2ForCausalLM, Qwen2Config(**SIZES)),
        (Qwen3ForCausalLM, Qwen3Config(**SIZES, head_dim=128)),
    ],
    ids=["llama-tied", "llama", "qwen2", "qwen3"],
)
def test_read_back_is_equal(network_class: Any, config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTTRAIN_CACHE", str(tmp_path / "cache"))
    model = _with(network_class, config)
    Gguf(type="f32").write(model, tmp_path / "m.gguf")
    loaded = sources.load(str(tmp_path / "m.gguf"), device="cpu")
    before, after = model.network.state_dict(), loaded.network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert torch.equal(_logits(loaded), _logits(model))
    for text in ("The quick brown fox.", "<|im_start|>user\nWhat is 42?<|im_end|>\n", "é\t  two"):
        assert loaded.tokenizer(text)["input_ids"] == model.tokenizer(text)["input_ids"]
    assert loaded.tokenizer.chat_template == model.tokenizer.chat_template


def test_quantized_layers_are_written_as_what_they_amount_to(
    tiny_llama: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the bias makes up for a shift of the activations."""
    monkeypatch.setenv("POSTTRAIN_CACHE", str(tmp_path / "cache"))
    model = _with(LlamaForCausalLM, LlamaConfig(**SIZES, mlp_bias=True))
    observer = {"min_max": {"symmetric": False}}
    bias = model.network.model.layers[1].mlp.up_proj.bias.detach().clone()
    Static(observer=observer, noise_limit=None).quantize(model, IDS.tolist())
    tensors = {t.name: np.asarray(t.data) for t in _exported(model, tmp_path / "m.gguf", type="f32").tensors}
    layer = model.network.model.layers[1].mlp.up_proj
    np.testing.assert_array_equal(tensors["blk.1.ffn_up.weight"], layer.effective_weight())
    np.testing.assert_allclose(tensors["blk.1.ffn_up.bias"], bias, atol=1e-5)


# GGUF: tokenizers.


def _sentencepiece() -> PreTrainedTokenizerFast:
    """As Llama 2's: pieces with a sign for the space, bytes for what has no piece."""
    text = ["the quick brown fox jumps over the lazy dog and the dog sleeps"] * 4
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator(text, trainers.BpeTrainer(vocab_size=60, show_progress=False))
    learned = json.loads(trained.to_str())["model"]
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *learned["vocab"]]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    merges = [tuple(pair) for pair in learned["merges"]]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    for token in ("<unk>", "<s>", "</s>"):
        tokenizer.add_special_tokens([AddedToken(token, normalized=False)])
    tokenizer.add_tokens([AddedToken("▁▁wide", normalized=False)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def test_sentencepiece_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTTRAIN_CACHE", str(tmp_path / "cache"))
    tokenizer = _sentencepiece()
    model = _with(LlamaForCausalLM, LlamaConfig(**{**SIZES, "vocab_size": len(tokenizer), "pad_token_id": None}))
    model.tokenizer = tokenizer
    reader = _exported(model, tmp_path / "m.gguf")
    assert _value(reader, "tokenizer.ggml.model") == "llama"
    kinds = _value(reader, "tokenizer.ggml.token_type")
    assert kinds[:5] == [2, 3, 3, 6, 6]  # unknown, control, control, bytes
    assert kinds[-1] == 4
    tokens, scores = (_value(reader, f"tokenizer.ggml.{key}") for key in ("tokens", "scores"))
    assert tokens[-1] == "  wide"
    merges = ["".join(pair) for pair in json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]]
    assert sorted(merges, key=lambda piece: -scores[tokens.index(piece)]) == merges
    assert _value(reader, "tokenizer.ggml.add_space_prefix") is True
    loaded = sources.load(str(tmp_path / "m.gguf"), device="cpu").tokenizer
    text = "the quick dog jumps é"
    assert loaded(text, add_special_tokens=False)["input_ids"] == tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize(
    ("cuts", "name"),
    [
        ([pre_tokenizers.Digits(individual_digits=True)], "smollm"),
        (
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
            r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            "qwen2",
        ),
    ],
)
def test_what_cuts_words_has_a_name(cuts: Any, name: str, tiny_llama: LanguageModel, tmp_path: Path) -> None:
    if isinstance(cuts, str):
        parts = [pre_tokenizers.Split(Regex(cuts), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    else:
        parts = [*cuts, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tiny_llama.tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(parts)
    assert _value(_exported(tiny_llama, tmp_path / "m.gguf"), "tokenizer.ggml.pre") == name


def test_llama_3_takes_whole_words(tiny_llama: LanguageModel, tmp_path: Path) -> None:
    """llama.cpp skips the merges of words that are tokens under this name, so the tokenizer must do so too."""
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    parts = [pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    backend = tiny_llama.tokenizer.backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.Sequence(parts)
    with pytest.raises(BadRequest, match="cuts text into words in a way"):
        Gguf().write(tiny_llama, tmp_path / "m.gguf")
    backend.model.ignore_merges = True
    assert _value(_exported(tiny_llama, tmp_path / "m.gguf"), "tokenizer.ggml.pre") == "llama-bpe"


# GGUF: what is refused.


def test_what_gguf_has_no_place_for(tiny_llama: LanguageModel, tmp_path: Path) -> None:
    place = tmp_path / "m.gguf"
    gpt2 = _with(GPT2LMHeadModel, GPT2Config(vocab_size=300, n_embd=64, n_layer=1, n_head=4))
    gelu = _with(LlamaForCausalLM, LlamaConfig(**SIZES, hidden_act="gelu"))
    yarn = {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0, "original_max_position_embeddings": 64}
    stretched = _with(LlamaForCausalLM, LlamaConfig(**SIZES, rope_parameters=yarn))
    with_more = make_tiny_llama()
    with_more.network.model.layers[0].extra = torch.nn.Linear(2, 2)
    small = make_tiny_llama()
    small.network.resize_token_embeddings(200)
    pieces = make_tiny_llama()
    pieces.tokenizer.backend_tokenizer.model = models.WordLevel({"a": 0}, unk_token="a")
    for model, sentence in (
        (gpt2, "GPT2LMHeadModel can't be exported to GGUF. Supported: llama, mistral, qwen2, qwen3"),
        (gelu, "computes silu"),
        (stretched, "scaled by 'yarn'"),
        (with_more, "no place for model.layers.0.extra"),
        (small, "has token 299, the network only 200"),
        (pieces, "type WordLevel"),
    ):
        with pytest.raises(BadRequest, match=sentence):
            Gguf().write(model, place)
    assert not list(tmp_path.iterdir())


def test_numbers_that_do_not_fit(tiny_llama: LanguageModel, tmp_path: Path) -> None:
    with torch.no_grad():
        tiny_llama.network.model.layers[1].mlp.up_proj.weight[0, 0] = 1e5
    with pytest.raises(Failure, match=r"model\.layers\.1\.mlp\.up_proj holds 100000"):
        Gguf().write(tiny_llama, tmp_path / "m.gguf")
    assert not list(tmp_path.iterdir())
    Gguf(type="bf16").write(tiny_llama, tmp_path / "m.gguf")


# PEFT.


def test_peft_reads_the_adapter(tiny_llama: LanguageModel, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    tiny_llama.adapter = Lora(rank=2)
    tiny_llama.adapter.apply(tiny_llama.network)
    with torch.no_grad():
        for parameter in tiny_llama.adapter.trainable(tiny_llama.network).values():
            parameter += 0.1
    found = Peft(base="owner/base").write(tiny_llama, tmp_path / "adapter")
    assert found["base"] == "owner/base"
    assert files.read_json(tmp_path / "adapter" / "adapter_config.json")["base_model_name_or_path"] == "owner/base"
    theirs = peft.PeftModel.from_pretrained(make_tiny_llama().network, tmp_path / "adapter")
    with torch.no_grad():
        torch.testing.assert_close(theirs(IDS).logits, _logits(tiny_llama))


def test_an_adapter_that_peft_lacks(tiny_llama: LanguageModel, tmp_path: Path) -> None:
    model = _with(Qwen2ForCausalLM, Qwen2Config(**SIZES))
    model.adapter = Bitfit()
    model.adapter.apply(model.network)
    with pytest.raises(BadRequest, match="no such adapter as bitfit"):
        Peft().write(model, tmp_path / "adapter")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("form", catalog.terms("export"))
def test_only_an_earlier_export_is_replaced(form: str, tmp_path: Path) -> None:
    """Files of others stay, a saved model too, though its configuration looks like an export's."""
    export: Export = catalog.build("export", form)
    name, words = export.marker
    place = tmp_path / "place"
    export.refuse_place(place)
    place.write_text("notes")
    with pytest.raises(BadRequest):
        export.refuse_place(place)
    place.unlink()
    place.mkdir()
    if export.suffix:
        with pytest.raises(BadRequest, match="is a folder"):
            export.refuse_place(place)
        (tmp_path / "old").write_text(f"{words}, an older one")
        export.refuse_place(tmp_path / "old")
        return
    export.refuse_place(place)
    (place / "notes.txt").write_text("mine")
    with pytest.raises(BadRequest, match="holds something else"):
        export.refuse_place(place)
    (place / name).write_text(f"{{{words}: 1}}")
    export.refuse_place(place)
    (place / CARD_FILE).write_text("{}")
    with pytest.raises(BadRequest, match="holds something else"):
        export.refuse_place(place)


def test_the_place_is_looked_at_before_the_model(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(BadRequest, match="holds something else"):
        posttrain.export("no/such/model", "peft", tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    recipe = {"model": str(tmp_path), "steps": [{"export": {"compressed_tensors": {}, "out": str(tmp_path)}}]}
    with pytest.raises(BadRequest, match="holds something else"):
        posttrain.run(recipe, out=tmp_path / "run")
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_weights_that_are_no_numbers(tiny_llama: LanguageModel, tmp_path: Path) -> None:
    tiny_llama.network.model.layers[0].self_attn.q_proj.weight.data[0, 0] = torch.nan
    with pytest.raises(Failure, match="holds nan, which is no number"):
        Gguf(type="f32").write(tiny_llama, tmp_path / "m.gguf")
    assert not (tmp_path / "m.gguf").exists()
