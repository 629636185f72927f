"""Conditional perplexity: the class's own loss on masked labels, for causal networks and for encoder-decoders."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from measure.masked_toy import make_tiny_masked
from models.test_token_losses import tiny_seq2seq
from posttrain.core.errors import BadRequest
from posttrain.measure.conditional_perplexity import ConditionalPerplexity
from posttrain.models.language_model import LanguageModel
from tiny_models import make_tiny_tokenizer, make_tiny_wordpieces

PAIRS = [("What is the answer?", " Forty-two."), ("Who sleeps?", " The dog, and the fox runs on."), ("Why?", " é")]


def written(tmp_path: Path, *rows: dict[str, Any]) -> str:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def completions(tmp_path: Path) -> str:
    return written(tmp_path, *({"prompt": prompt, "completion": completion} for prompt, completion in PAIRS))


def loss_sum(model: LanguageModel, ids: list[int], first: int) -> tuple[float, int]:
    """Sum of nats and number of the tokens from `first` on, by the class's own loss on masked labels."""
    tensor = torch.tensor([ids])
    labels = tensor.clone()
    labels[0, :first] = -100
    with torch.no_grad():
        loss = float(model.network(input_ids=tensor, labels=labels).loss)
    return loss * (len(ids) - first), len(ids) - first


def test_completions_end_with_their_end(tiny_llama: LanguageModel, completions: str) -> None:
    tokenizer = tiny_llama.tokenizer
    sums = []
    for prompt, completion in PAIRS:
        ids = tokenizer(prompt + completion + tokenizer.eos_token)["input_ids"]
        sums.append(loss_sum(tiny_llama, ids, len(tokenizer(prompt)["input_ids"])))
    nats, tokens = (sum(each) for each in zip(*sums))
    found = ConditionalPerplexity(data=completions).measure(tiny_llama)
    assert found.parts["tokens_scored"] == tokens
    assert found.value == pytest.approx(math.exp(nats / tokens), rel=1e-5)
    assert found.parts["per_record"] == pytest.approx(math.exp(sum(n / t for n, t in sums) / 3), rel=1e-5)
    size = sum(len(completion.encode()) for _, completion in PAIRS)
    assert found.parts["bits_per_byte"] == pytest.approx(nats / math.log(2) / size, rel=1e-5)
    assert "|chat:false|" in found.signature


def test_of_a_conversation_the_answers_count(tiny_llama: LanguageModel, tmp_path: Path) -> None:
    """The template writes <|im_start|>assistant, a line break, the answer, <|im_end|>, a line break.

    What counts is all that stands behind the header.
    """
    messages = [{"role": "user", "content": "Who sleeps?"}, {"role": "assistant", "content": "The dog."}]
    data = written(tmp_path, {"messages": messages})
    tokenizer = tiny_llama.tokenizer
    whole = tokenizer.apply_chat_template(messages, tokenize=False)
    header = tokenizer.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
    ids = tokenizer(whole, add_special_tokens=False)["input_ids"]
    nats, tokens = loss_sum(tiny_llama, ids, len(tokenizer(header, add_special_tokens=False)["input_ids"]))
    found = ConditionalPerplexity(data=data).measure(tiny_llama)
    assert found.parts["tokens_scored"] == tokens
    assert found.parts["nll"] == pytest.approx(nats / tokens, rel=1e-5)
    assert "|chat:true|" in found.signature


def test_a_long_record_is_read_in_windows_and_nothing_is_cut(tiny_llama: LanguageModel, tmp_path: Path) -> None:
    """A prompt of 300 characters and an answer beyond the model's 128 tokens: every token of the answer counts."""
    prompt, completion = "zq" * 150, "xw" * 100
    data = written(tmp_path, {"prompt": prompt, "completion": completion})
    tokenizer = tiny_llama.tokenizer
    tokens = len(tokenizer(completion)["input_ids"]) + 1
    assert len(tokenizer(prompt)["input_ids"]) > 128 and tokens > 128
    assert ConditionalPerplexity(data=data).measure(tiny_llama).parts["tokens_scored"] == tokens
    assert ConditionalPerplexity(data=data, window=64).measure(tiny_llama).parts["tokens_scored"] == tokens


@pytest.mark.parametrize("architecture", ["t5", "bart"])
def test_an_encoder_decoder_predicts_the_target(architecture: str, tmp_path: Path) -> None:
    model = LanguageModel(tiny_seq2seq(architecture), make_tiny_wordpieces())
    model.network.resize_token_embeddings(len(model.tokenizer))
    rows = [("the dog is good", "a good film"), ("bad", "the fox is very bad"), ("film", "a")]
    data = written(tmp_path, *({"source": source, "target": target} for source, target in rows))
    nats, tokens = 0.0, 0
    for source, target in rows:
        labels = model.tokenizer(target, return_tensors="pt").input_ids
        with torch.no_grad():
            loss = model.network(input_ids=model.tokenizer(source, return_tensors="pt").input_ids, labels=labels).loss
        nats, tokens = nats + float(loss) * labels.numel(), tokens + labels.numel()
    for batch_size in (1, 8):
        found = ConditionalPerplexity(data=data, batch_size=batch_size).measure(model)
        assert found.parts["tokens_scored"] == tokens
        assert found.value == pytest.approx(math.exp(nats / tokens), rel=1e-5)
    assert "|decoder:true|" in found.signature
    with pytest.raises(BadRequest, match="window, stride and chat say nothing"):
        ConditionalPerplexity(data=data, window=8).measure(model)


def test_what_is_too_long_for_an_encoder_is_named(tmp_path: Path) -> None:
    model = LanguageModel(tiny_seq2seq("bart"), make_tiny_wordpieces())
    data = written(tmp_path, {"source": "a", "target": "b"}, {"source": "the dog " * 30, "target": "b"})
    with pytest.raises(BadRequest, match=r"rows.jsonl:2: 62 tokens, but the model reads 40"):
        ConditionalPerplexity(data=data).measure(model)


def test_a_source_without_tokens_is_named(tmp_path: Path) -> None:
    """The tokenizer of this model adds no token of its own, so a blank source is nothing to read."""
    model = LanguageModel(tiny_seq2seq("t5"), make_tiny_tokenizer())
    data = written(tmp_path, {"prompt": "a", "completion": "b"}, {"prompt": "", "completion": "b"})
    with pytest.raises(BadRequest, match=r"rows.jsonl:2: the source has no tokens"):
        ConditionalPerplexity(data=data).measure(model)


def test_the_wrong_data_and_models_are_refused(tiny_llama: LanguageModel, tmp_path: Path, completions: str) -> None:
    with pytest.raises(BadRequest, match="a text record has no answer"):
        ConditionalPerplexity(data=written(tmp_path, {"text": "a"})).measure(tiny_llama)
    with pytest.raises(BadRequest, match="not a causal language model"):
        ConditionalPerplexity(data="builtin:handbook_heldout").measure(make_tiny_masked())
    only_asked = written(tmp_path, {"messages": [{"role": "user", "content": "Who?"}]})
    with pytest.raises(BadRequest, match="No record has an answer"):
        ConditionalPerplexity(data=only_asked).measure(tiny_llama)
