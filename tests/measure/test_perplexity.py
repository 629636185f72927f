"""Perplexity: windows by hand, values against float64 loops and against other people's recipes, sizes by hand."""

from __future__ import annotations

import json
import math
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from posttrain.core.errors import BadRequest, Failure
from posttrain.data import dataset
from posttrain.measure import _token_losses
from posttrain.measure._token_losses import exp_interval, interval
from posttrain.measure.perplexity import Perplexity
from posttrain.models.language_model import LanguageModel
from posttrain.models.token_losses import windows
from posttrain.ops.bootstrap import ratio_interval
from posttrain.quantize.linear import Int8Linear
from posttrain.quantize.methods.dynamic import Dynamic

SENTENCES = [
    "The quick brown fox jumps over the lazy dog. ",
    "A language model predicts the next token from what came before it. ",
    "What is the answer? The answer is forty-two, said the machine. ",
    "Rain fell on the roofs all night; in the morning the river had risen. ",
]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Some 300 tokens of the tiny tokenizer."""
    path = tmp_path / "text.txt"
    path.write_text("".join(SENTENCES * 2))
    return path


def _ids(model: LanguageModel, text: Path) -> list[int]:
    return model.tokenizer(text.read_text())["input_ids"]


def _nll_of_all(network: torch.nn.Module, ids: list[int]) -> torch.Tensor:
    """float64 [len(ids) - 1]: a plain call, plain logits, plain log-softmax."""
    with torch.no_grad():
        logits = network(torch.tensor([ids])).logits[0, :-1].double()
    return -logits.log_softmax(-1)[torch.arange(len(ids) - 1), torch.tensor(ids[1:])]


# --------------------------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize(("window", "stride"), [(128, 64), (32, 16), (32, 5), (32, 31), (17, 1), (128, 128), (2, 2)])
def test_equals_a_float64_loop(tiny_llama: LanguageModel, text: Path, window: int, stride: int) -> None:
    """The network in float64, every window alone, all logits at once."""
    reference = deepcopy(tiny_llama.network).double()
    ids = _ids(tiny_llama, text)
    parts = [_nll_of_all(reference, ids[w.begin : w.end])[-w.scored :] for w in windows(len(ids), window, stride)]
    expected = torch.cat(parts)
    found = Perplexity(text=str(text), window=window, stride=stride).measure(tiny_llama)
    assert found.parts["tokens_scored"] == len(ids) - 1 == len(expected)
    assert found.parts["nll"] == pytest.approx(float(expected.mean()), rel=1e-6)
    assert found.value == pytest.approx(math.exp(float(expected.mean())), rel=1e-6)


def _fixed_length_recipe(network: Any, ids: list[int], window: int, stride: int) -> tuple[float, int]:
    """Nats and tokens by the loop of Hugging Face's page on the perplexity of fixed-length models.

    The page weights each window's mean loss by the number of labels less one; here it is weighted by how many tokens
    the loss is the mean of, which differs from the second window on.
    """
    nats, tokens, previous = 0.0, 0, 0
    tensor = torch.tensor([ids])
    for begin in range(0, len(ids), stride):
        end = min(begin + window, len(ids))
        target_length = end - previous
        labels = tensor[:, begin:end].clone()
        labels[:, :-target_length] = -100
        with torch.no_grad():
            loss = network(tensor[:, begin:end], labels=labels).loss
        scored = int((labels[:, 1:] != -100).sum())
        nats, tokens, previous = nats + float(loss) * scored, tokens + scored, end
        if end == len(ids):
            break
    return nats, tokens


@pytest.mark.parametrize(("window", "stride"), [(128, 64), (64, 10), (100, 99)])
def test_equals_the_fixed_length_recipe(tiny_llama: LanguageModel, text: Path, window: int, stride: int) -> None:
    ids = _ids(tiny_llama, text)
    nats, tokens = _fixed_length_recipe(deepcopy(tiny_llama.network), ids, window, stride)
    found = Perplexity(text=str(text), window=window, stride=stride).measure(tiny_llama)
    assert tokens == found.parts["tokens_scored"] == len(ids) - 1
    assert found.parts["nll"] == pytest.approx(nats / tokens, rel=1e-6)


def test_windows_without_overlap_keep_one_token_of_context(tiny_llama: LanguageModel, text: Path) -> None:
    """As lm-evaluation-harness rolls over a text: each window predicts 50 tokens from the 50 that end one earlier."""
    ids = _ids(tiny_llama, text)
    parts = [_nll_of_all(tiny_llama.network, ids[max(0, i - 1) : i + 50])[-50:] for i in range(0, len(ids), 50)]
    expected = torch.cat(parts)
    assert len(expected) == len(ids) - 1
    for batch_size in (1, 4):
        found = Perplexity(text=str(text), window=50, stride=50, batch_size=batch_size).measure(tiny_llama)
        assert found.parts["nll"] == pytest.approx(float(expected.mean()), rel=1e-6)


def test_the_batch_size_changes_nothing(tiny_llama: LanguageModel, text: Path) -> None:
    """Up to the rounding of float32 products of another shape: 1e-6 for a token, 1e-7 for the value."""
    one = Perplexity(text=str(text), window=40, stride=13, batch_size=1).measure(tiny_llama)
    for batch_size in (2, 3, 5, 1000):
        many = Perplexity(text=str(text), window=40, stride=13, batch_size=batch_size).measure(tiny_llama)
        assert many.value == pytest.approx(one.value, rel=1e-7)
        assert many.signature == one.signature


def test_no_window_crosses_documents(tiny_llama: LanguageModel, tmp_path: Path) -> None:
    """Two documents together are the token-weighted mean of each alone."""
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": s}) + "\n" for s in SENTENCES[:2]))
    alone = []
    for index, sentence in enumerate(SENTENCES[:2]):
        (tmp_path / f"{index}.txt").write_text(sentence)
        alone.append(Perplexity(text=str(tmp_path / f"{index}.txt")).measure(tiny_llama).parts)
    found = Perplexity(text=str(path)).measure(tiny_llama).parts
    assert found["documents"] == 2
    assert found["tokens_scored"] == sum(p["tokens_scored"] for p in alone)
    nats = sum(p["nll"] * p["tokens_scored"] for p in alone)
    assert found["nll"] == pytest.approx(nats / found["tokens_scored"], rel=1e-6)
    # Bits a byte are weighted by bytes: those of each document without its first token.
    first = [tiny_llama.tokenizer.decode(tiny_llama.tokenizer(s)["input_ids"][:1]) for s in SENTENCES[:2]]
    sizes = [len(s) - len(token) for s, token in zip(SENTENCES, first)]
    bits = sum(p["bits_per_byte"] * size for p, size in zip(alone, sizes))
    assert found["bits_per_byte"] == pytest.approx(bits / sum(sizes), rel=1e-6)


def test_texts_are_taken_from_the_text_column_of_any_file(tiny_llama: LanguageModel, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": s, "label": 1}) + "\n" for s in SENTENCES))
    (tmp_path / "a.csv").write_text("text,label\n" + "".join(f'"{s}",1\n' for s in SENTENCES))
    (tmp_path / "a.tokens").write_text("".join(SENTENCES))
    found = [Perplexity(text=str(tmp_path / name)).measure(tiny_llama) for name in ("a.jsonl", "a.csv", "a.tokens")]
    assert found[0].value == found[1].value
    assert [f.parts["documents"] for f in found] == [4, 4, 1]


def test_a_quantized_projection_is_measured_as_it_computes(tiny_llama: LanguageModel, text: Path) -> None:
    """Int8 activations: the loss of the network itself, not of the matrix the projection amounts to."""
    Dynamic(targets="lm_head").quantize(tiny_llama)
    assert isinstance(tiny_llama.network.lm_head, Int8Linear)
    ids = _ids(tiny_llama, text)[:100]
    expected = float(_nll_of_all(tiny_llama.network, ids).mean())
    found = Perplexity(text=str(text), max_tokens=100, window=128).measure(tiny_llama).parts["nll"]
    assert found == pytest.approx(expected, rel=1e-6)


# ------------------------------------------------------------------------------------ a model that knows nothing: sizes


def _word_tokenizer(adds: str = "$A") -> PreTrainedTokenizerFast:
    words = ["<unk>", "<s>", "</s>", "one", "two", "three", "é"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single=adds, special_tokens=[("<s>", 1), ("</s>", 2)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


@pytest.fixture
def uniform(tiny_llama: LanguageModel) -> LanguageModel:
    """All logits are zero, so each of the 300 tokens has probability 1/300; tokens are words."""
    with torch.no_grad():
        tiny_llama.network.lm_head.weight.zero_()
    tiny_llama.tokenizer = _word_tokenizer()
    return tiny_llama


def test_sizes_by_hand(uniform: LanguageModel, tmp_path: Path) -> None:
    """The text is four words; "one" isn't scored, and three words, 12 characters, 13 bytes (é has two) remain.

    Each of the three tokens costs ln 300, so a word 300^(3/3), a character 300^(3/12), a byte 300^(3/13), in bits
    3 log2(300) / 13.
    """
    path = tmp_path / "text.txt"
    path.write_text("one two\nthree é")
    found = Perplexity(text=str(path)).measure(uniform)
    assert found.value == pytest.approx(300, rel=1e-6)
    parts = found.parts
    assert parts["tokens_scored"] == 3
    assert parts["nll"] == pytest.approx(math.log(300), rel=1e-6)
    assert parts["word_perplexity"] == pytest.approx(300, rel=1e-5)
    assert parts["character_perplexity"] == pytest.approx(300 ** (3 / 12), rel=1e-6)
    assert parts["byte_perplexity"] == pytest.approx(300 ** (3 / 13), rel=1e-6)
    assert parts["bits_per_byte"] == pytest.approx(3 * math.log2(300) / 13, rel=1e-6)
    assert parts["unknown_tokens"] == 0
    assert found.interval is None  # too short for one
    assert not found.higher_is_better


def test_special_tokens_are_the_tokenizers_own(uniform: LanguageModel, tmp_path: Path) -> None:
    """<s> predicts "one", so all four words, 15 characters and 16 bytes count; </s> is scored too and has no text."""
    path = tmp_path / "text.txt"
    path.write_text("one two\nthree é")
    seen = {}
    cases = [("$A", 3, 3 / 13), ("<s> $A", 4, 4 / 16), ("<s> $A </s>", 5, 5 / 16), ("$A </s>", 4, 4 / 13)]
    for adds, scored, bits in cases:
        uniform.tokenizer = _word_tokenizer(adds)
        found = Perplexity(text=str(path)).measure(uniform)
        assert found.parts["tokens_scored"] == scored
        assert found.parts["bits_per_byte"] == pytest.approx(bits * math.log2(300), rel=1e-6)
        seen[adds] = found.signature.partition("|special:")[2].partition("|")[0]
        assert found.parts["special_tokens"] == seen[adds]
    assert seen == {"$A": "none", "<s> $A": "bos", "<s> $A </s>": "bos+eos", "$A </s>": "eos"}


def test_a_beginning_lets_the_first_word_count(uniform: LanguageModel, tmp_path: Path) -> None:
    """All four words, 15 characters and 16 bytes; the same text without one has another signature."""
    path = tmp_path / "text.txt"
    path.write_text("one two\nthree é")
    found = Perplexity(text=str(path), special_tokens="begin").measure(uniform)
    assert found.parts["tokens_scored"] == 4
    assert found.parts["bits_per_byte"] == pytest.approx(4 * math.log2(300) / 16, rel=1e-6)
    assert "|special:bos|" in found.signature
    uniform.tokenizer = _word_tokenizer("<s> $A")
    assert Perplexity(text=str(path), special_tokens="none").measure(uniform).parts["tokens_scored"] == 3


def test_unknown_tokens_are_counted_where_they_are_scored(
    uniform: LanguageModel, tmp_path: Path, heard: list[str]
) -> None:
    path = tmp_path / "text.txt"
    path.write_text("zero one four two five")
    found = Perplexity(text=str(path)).measure(uniform)
    assert found.parts["unknown_tokens"] == 2
    assert "|unknown:2|" in found.signature
    assert heard[0].startswith("2 tokens are the unknown token")
    assert Perplexity(text=str(path), max_tokens=3).measure(uniform).parts["unknown_tokens"] == 1


def test_a_text_without_spaces_has_no_word_perplexity(
    uniform: LanguageModel, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    """One word of 200 tokens: 300^200 is no floating-point number."""
    uniform.tokenizer = tiny_tokenizer
    path = tmp_path / "text.txt"
    path.write_text("z" * 201)
    found = Perplexity(text=str(path)).measure(uniform)
    assert found.parts["tokens_scored"] == 200
    assert found.parts["word_perplexity"] is None
    assert found.parts["bits_per_byte"] == pytest.approx(math.log2(300), rel=1e-6)
    # Every token costs the same, so every draw does.
    assert found.interval == pytest.approx((300, 300), rel=1e-5)


def test_max_tokens_counts_over_all_documents(uniform: LanguageModel, tmp_path: Path) -> None:
    """Seven tokens of 3 + 3 + 3: the third document keeps one token, which can't be scored."""
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "one two three"}\n' * 3)
    measured = [Perplexity(text=str(path), max_tokens=n).measure(uniform) for n in (2, 6, 7, 8, 100)]
    assert [m.parts["tokens_scored"] for m in measured] == [1, 4, 4, 5, 6]


def test_texts_of_one_token_are_named(uniform: LanguageModel, tmp_path: Path, heard: list[str]) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "one two three"}\n{"text": "one"}\n')
    found = Perplexity(text=str(path)).measure(uniform)
    assert (found.parts["documents"], found.parts["tokens_scored"]) == (1, 2)
    assert any(message.startswith("1 texts have fewer than two tokens") for message in heard)


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    messages: list[str] = []
    monkeypatch.setattr(_token_losses.events, "message", lambda text, level="info": messages.append(text))
    return messages


# -------------------------------------------------------------------------------------------------- interval, signature


def test_interval_draws_documents_where_there_are_enough() -> None:
    generator = np.random.default_rng(0)
    nats = [generator.gamma(2, 1, size=n).astype(np.float32) for n in range(5, 45)]
    expected = ratio_interval([part.sum(dtype=np.float64) for part in nats], [part.size for part in nats])
    assert interval(nats) == (expected.low, expected.high)


def test_interval_of_one_document_draws_blocks() -> None:
    """1,000 tokens in runs of ten alike: blocks of 1000^(1/3) = 10 tokens are what is independent here.

    The standard error of the mean is then that of 100 draws, sqrt(10) times that of 1,000.
    """
    runs = np.random.default_rng(0).gamma(2, 1, size=100).astype(np.float32)
    found = interval([np.repeat(runs, 10)])
    assert found is not None
    assert found[0] < runs.mean() < found[1]
    assert found[1] - found[0] == pytest.approx(2 * 1.96 * runs.std() / 10, rel=0.1)


def test_interval_needs_twenty_items() -> None:
    """80 tokens make blocks of 4, twenty of them; 70 make seventeen."""
    nats = np.random.default_rng(0).gamma(2, 1, size=80).astype(np.float32)
    assert interval([nats]) is not None
    assert interval([nats[:70]]) is None
    assert interval([nats[:40], nats[40:]]) is not None


def test_value_lies_in_the_interval(tiny_llama: LanguageModel, text: Path) -> None:
    found = Perplexity(text=str(text)).measure(tiny_llama)
    assert found.interval is not None
    assert found.interval[0] < found.value < found.interval[1]


def test_signature_names_all_that_made_the_number(tiny_llama: LanguageModel, text: Path, tmp_path: Path) -> None:
    usual = Perplexity(text=str(text)).measure(tiny_llama).signature
    tokens = len(_ids(tiny_llama, text)) - 1
    fields = dict(part.split(":", 1) for part in usual.split("|")[1:])
    assert fields["model"] == tiny_llama.fingerprint()[:12]
    assert fields["tokenizer"] == tiny_llama.tokenizer_fingerprint()[:12]
    assert fields["text"] == dataset.read(str(text)).hash[:12]
    assert (fields["tokens"], fields["special"], fields["dtype"]) == (str(tokens), "none", "float32")
    assert fields["unknown"] == "0"
    # The model's context of 128 tokens is shorter than the usual window.
    assert (fields["window"], fields["stride"]) == ("128", "64")
    assert Perplexity(text=str(text), batch_size=1).measure(tiny_llama).signature == usual

    signatures = [usual]
    signatures.append(Perplexity(text=str(text), window=64, stride=64).measure(tiny_llama).signature)
    signatures.append(Perplexity(text=str(text), stride=32).measure(tiny_llama).signature)
    signatures.append(Perplexity(text=str(text), max_tokens=50).measure(tiny_llama).signature)
    other = tmp_path / "other.txt"
    other.write_text(text.read_text().replace("fox", "cat"))
    signatures.append(Perplexity(text=str(other)).measure(tiny_llama).signature)
    changed = deepcopy(tiny_llama)
    with torch.no_grad():
        changed.network.model.norm.weight[0] += 1e-6
    signatures.append(Perplexity(text=str(text)).measure(changed).signature)
    half = LanguageModel(deepcopy(tiny_llama.network).bfloat16(), tiny_llama.tokenizer)
    signatures.append(Perplexity(text=str(text)).measure(half).signature)
    words = LanguageModel(tiny_llama.network, _word_tokenizer())
    signatures.append(Perplexity(text=str(text)).measure(words).signature)
    assert len(set(signatures)) == len(signatures)


def test_inputs_change_with_the_text(text: Path) -> None:
    before = Perplexity(text=str(text)).inputs()
    assert before == Perplexity(text=str(text)).inputs()
    text.write_text("Something else.")
    assert Perplexity(text=str(text)).inputs() != before


# --------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"window": 32, "stride": 33}, "stride 33 is larger than window 32"),
        ({"window": 129}, "window 129 is longer than the model's context of 128 tokens"),
    ],
)
def test_bad_windows(tiny_llama: LanguageModel, text: Path, settings: dict[str, int], sentence: str) -> None:
    with pytest.raises(BadRequest, match=sentence):
        Perplexity(text=str(text), **settings).measure(tiny_llama)


@pytest.mark.parametrize(
    "settings", [{"window": 1}, {"stride": 0}, {"max_tokens": 1}, {"batch_size": 0}, {"strides": 3}]
)
def test_bad_settings(settings: dict[str, int]) -> None:
    with pytest.raises(BadRequest):
        Perplexity.parse(settings)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("one.txt", b"T", r"one\.txt has fewer than two tokens a text.*special_tokens=begin"),
        ("empty.txt", b"", "has no records"),
        ("blank.txt", b" \n\n", "has no records"),
        ("latin.txt", b"abc\ncaf\xe9 noir\n", r"latin.txt:2: byte 0xe9 at offset 7 is not valid UTF-8"),
        ("chat.jsonl", b'{"messages": [{"role": "user", "content": "Hi"}]}\n', "don't make a record of kind text"),
    ],
)
def test_bad_texts(tiny_llama: LanguageModel, tmp_path: Path, name: str, content: bytes, sentence: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadRequest, match=sentence):
        Perplexity(text=str(tmp_path / name)).measure(tiny_llama)


def test_weights_that_are_no_numbers(tiny_llama: LanguageModel, text: Path) -> None:
    with torch.no_grad():
        tiny_llama.network.model.norm.weight[3] = float("nan")
    with pytest.raises(Failure, match="not numbers"):
        Perplexity(text=str(text)).measure(tiny_llama)


def test_a_model_that_has_lost_all_sense(tiny_llama: LanguageModel, text: Path) -> None:
    """A finite loss of thousands of nats has no perplexity that a floating-point number holds."""
    with torch.no_grad():
        tiny_llama.network.model.norm.weight.mul_(1e5)
    with pytest.raises(Failure, match="nats a token"):
        Perplexity(text=str(text)).measure(tiny_llama)


def test_an_encoder_has_none(tiny_llama: LanguageModel, text: Path) -> None:
    encoder = LanguageModel(tiny_llama.network.model, tiny_llama.tokenizer, reference="encoder")
    with pytest.raises(BadRequest, match="encoder is not a causal language model"):
        Perplexity(text=str(text)).measure(encoder)


# ----------------------------------------------------------------------------------------------------------- real model


@pytest.mark.real_model
def test_smollm2_equals_the_fixed_length_recipe(smollm2: LanguageModel) -> None:
    ids = smollm2.tokenizer(dataset.read("builtin:prose").records[0].text, verbose=False)["input_ids"][:300]  # type: ignore[union-attr]
    found = Perplexity(max_tokens=300, window=128, stride=64).measure(smollm2)
    nats, tokens = _fixed_length_recipe(smollm2.network, ids, 128, 64)
    assert found.parts["tokens_scored"] == tokens == 299
    assert found.value == pytest.approx(math.exp(nats / tokens), rel=1e-4)
    assert found.interval is not None and found.interval[0] < found.value < found.interval[1]
    # Context helps, so the smaller stride can only be better on prose like this.
    longer = Perplexity(max_tokens=300, window=256, stride=128).measure(smollm2)
    assert longer.value < found.value


@pytest.mark.real_model
def test_smollm2_in_bfloat16_differs_by_less_than_one_per_cent(smollm2: LanguageModel) -> None:
    half = LanguageModel(deepcopy(smollm2.network).bfloat16(), smollm2.tokenizer)
    values = [Perplexity(max_tokens=300, window=256).measure(model).value for model in (smollm2, half)]
    assert values[0] != values[1]
    assert values[1] == pytest.approx(values[0], rel=0.01)


@pytest.mark.real_model
def test_smollm2_equals_float64(smollm2: LanguageModel) -> None:
    ids = smollm2.tokenizer(dataset.read("builtin:prose").records[0].text, verbose=False)["input_ids"][:200]  # type: ignore[union-attr]
    expected = float(_nll_of_all(deepcopy(smollm2.network).double(), ids).mean())
    assert Perplexity(max_tokens=200).measure(smollm2).value == pytest.approx(math.exp(expected), rel=1e-6)


def test_an_interval_that_ends_beyond_all_numbers_is_none() -> None:
    assert exp_interval((0.0, math.log(2))) == pytest.approx((1.0, 2.0))
    assert exp_interval((600.0, 710.0)) is None and exp_interval(None) is None
