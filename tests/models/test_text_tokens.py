"""Texts as tokens: sizes by hand, special tokens, unknown ones, and where tokens stand."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from posttrain.core.errors import BadRequest
from posttrain.models.language_model import LanguageModel
from posttrain.models.text_tokens import special_tokens, text_tokens

TEXT = "The quick brown fox jumps over the lazy dog. A language model predicts the next token. Rain fell all night. "


def word_tokenizer(adds: str = "$A", **names: str) -> PreTrainedTokenizerFast:
    words = ["<unk>", "<s>", "</s>", "one", "two", "three", "é"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single=adds, special_tokens=[("<s>", 1), ("</s>", 2)])
    names = names or {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


@pytest.fixture
def words(tiny_llama: LanguageModel) -> LanguageModel:
    """A model whose tokens are words: 3 one, 4 two, 5 three, 6 é."""
    tiny_llama.tokenizer = word_tokenizer()
    return tiny_llama


def test_sizes_are_of_what_has_a_predecessor(words: LanguageModel) -> None:
    """Behind "one" there are three words: " two", a line break, "three é": 12 characters, and é has two bytes."""
    found = text_tokens(words, "one two\nthree é", with_spans=True)
    assert found is not None and found.spans is not None
    assert (found.ids, found.bytes, found.characters, found.words) == ([3, 4, 5, 6], 13, 12, 3)
    assert found.spans.tolist() == [[0, 3], [4, 7], [8, 13], [14, 15]]
    cut = text_tokens(words, "one two\nthree é", limit=3)
    assert cut is not None
    assert (cut.ids, cut.characters, cut.spans) == ([3, 4, 5], 10, None)
    assert text_tokens(words, "one") is None
    assert text_tokens(words, "one two", limit=1) is None


@pytest.mark.parametrize(
    ("adds", "special", "ids", "size", "name"),
    [
        ("$A", "own", [3, 4], 4, "none"),
        ("$A", "none", [3, 4], 4, "none"),
        ("$A", "begin", [1, 3, 4], 7, "bos"),
        ("<s> $A", "own", [1, 3, 4], 7, "bos"),
        ("<s> $A", "none", [3, 4], 4, "none"),
        ("<s> $A", "begin", [1, 3, 4], 7, "bos"),
        ("$A </s>", "own", [3, 4, 2], 4, "eos"),
        ("$A </s>", "begin", [1, 3, 4, 2], 7, "bos+eos"),
    ],
)
def test_special_tokens(words: LanguageModel, adds: str, special: Any, ids: list[int], size: int, name: str) -> None:
    words.tokenizer = word_tokenizer(adds)
    found = text_tokens(words, "one two", special=special, with_spans=True)
    assert found is not None and found.spans is not None
    assert (found.ids, found.bytes) == (ids, size)
    assert special_tokens(words, special) == name
    # Special tokens have no text.
    assert [span for i, span in zip(ids, found.spans.tolist()) if i in (1, 2)] == [[-1, -1]] * (1 in ids) + [
        [-1, -1]
    ] * (2 in ids)


def test_a_beginning_gives_a_single_token_a_probability(words: LanguageModel) -> None:
    found = text_tokens(words, "three", special="begin")
    assert found is not None
    assert (found.ids, found.bytes) == ([1, 5], 5)
    # A text that begins with the token's own name isn't given a second one, and a limit counts the added one.
    assert text_tokens(words, "<s> one two", special="begin").ids == [1, 3, 4]  # type: ignore[union-attr]
    assert text_tokens(words, "one two three", special="begin", limit=2).ids == [1, 3]  # type: ignore[union-attr]


def test_the_last_token_begins_a_text_where_there_is_no_first_one(words: LanguageModel) -> None:
    words.tokenizer = word_tokenizer(unk_token="<unk>", eos_token="</s>")
    assert text_tokens(words, "one", special="begin").ids == [2, 3]  # type: ignore[union-attr]
    assert special_tokens(words, "begin") == "eos"
    words.tokenizer = word_tokenizer(unk_token="<unk>")
    with pytest.raises(BadRequest, match="no token that begins a text"):
        text_tokens(words, "one", special="begin")


def test_unknown_tokens_are_those_that_hide_a_text(words: LanguageModel) -> None:
    """The first token isn't scored; a text may name the token itself; a tokenizer may use it as its end token too."""
    assert text_tokens(words, "zero one four two five").unknown == 2  # type: ignore[union-attr]
    assert text_tokens(words, "zero one four", special="begin").unknown == 2  # type: ignore[union-attr]
    assert text_tokens(words, "one <unk> two").unknown == 0  # type: ignore[union-attr]
    words.tokenizer = word_tokenizer("$A </s>", unk_token="</s>", eos_token="</s>")
    assert text_tokens(words, "one two").unknown == 0  # type: ignore[union-attr]


def test_a_long_text_is_not_tokenized_beyond_what_is_wanted(tiny_llama: LanguageModel) -> None:
    text = TEXT * 700
    tokenizer = tiny_llama.tokenizer
    whole = tokenizer(text)["input_ids"]
    read: list[int] = []

    class Counting:
        def __getattr__(self, name: str) -> Any:
            return getattr(tokenizer, name)

        def __call__(self, text: str, **options: Any) -> Any:
            read.append(len(text))
            return tokenizer(text, **options)

    tiny_llama.tokenizer = Counting()  # type: ignore[assignment]
    found = text_tokens(tiny_llama, text, limit=100)
    assert found is not None
    assert found.ids == whole[:100]
    assert found.bytes == len(tokenizer.decode(whole[1:100]))
    assert len(read) == 1
    assert read[0] < len(text) / 2
    # Where that many characters don't hold enough tokens, the whole text is read.
    tiny_llama.tokenizer = word_tokenizer()
    found = text_tokens(tiny_llama, " " * 30_000 + "one two three", limit=3)
    assert found is not None
    assert found.ids == [3, 4, 5]
