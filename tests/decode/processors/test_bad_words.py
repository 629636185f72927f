"""Bad words: worked by hand, agreement with transformers, words through a tokenizer."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from posttrain.core.errors import BadRequest
from posttrain.decode.generation import generate
from posttrain.decode.processors import DecodeState
from posttrain.decode.processors.bad_words import BadWords
from posttrain.decode.search.sampling import Sampling


def forbidden(processor: BadWords, state: DecodeState, words: int = 8) -> list[list[int]]:
    found = processor(torch.zeros(len(state.generated), words), state) == -torch.inf
    return [row.nonzero().flatten().tolist() for row in found]


def test_by_hand() -> None:
    """5 is never allowed; 3 not after 1 2, where 1 may be the prompt's; 4 not after 2; what isn't a word is ignored."""
    processor = BadWords(token_ids=[[5], [1, 2, 3], [2, 4], [99]])
    state = DecodeState(prompts=[[1], [7], [0, 1, 2], []], generated=[[2], [1], [], []])
    assert forbidden(processor, state) == [[3, 4, 5], [5], [3, 4, 5], [5]]


def test_something_is_left() -> None:
    state = DecodeState(prompts=[[0]], generated=[[]])
    assert forbidden(BadWords(token_ids=[[0], [1]]), state, words=2) == [[]]


def test_agrees_with_transformers() -> None:
    from transformers.generation.logits_process import NoBadWordsLogitsProcessor

    sequences = [[5], [7], [1, 2], [2, 2, 3], [0, 1, 2, 3], [3, 1]]
    logits, ids = torch.randn(200, 8), torch.randint(0, 4, (200, 6))
    state = DecodeState(prompts=ids[:, :2].tolist(), generated=ids[:, 2:].tolist())
    expected = NoBadWordsLogitsProcessor(sequences)(ids, logits)
    torch.testing.assert_close(BadWords(token_ids=sequences)(logits, state), expected)


def test_words_are_forbidden_at_the_beginning_and_after_a_space(lively: Any) -> None:
    tokenizer = lively.tokenizer
    plain, spaced = (tokenizer(text)["input_ids"] for text in ("fox", " fox"))
    assert plain != spaced
    processor = BadWords(words=["fox"])
    for form in (plain, spaced):
        state = DecodeState(prompts=[[]], generated=[form[:-1]], tokenizer=tokenizer)
        assert form[-1] in forbidden(processor, state, words=300)[0]
    with pytest.raises(BadRequest, match="tokenizer"):
        processor(torch.zeros(1, 300), DecodeState(prompts=[[]], generated=[[]]))


def test_what_is_drawn_is_free_of_them(lively: Any) -> None:
    drawn = {"search": Sampling(num_samples=64, temperature=1e3), "max_new_tokens": 40}
    free = "".join(g.text for g in generate(lively, [[70]], **drawn).generations)
    processors = [BadWords(words=["#", "%"])]
    bound = "".join(g.text for g in generate(lively, [[70]], processors=processors, **drawn).generations)
    assert free.count("#") > 1 and free.count("%") > 1
    assert "#" not in bound and "%" not in bound


def test_an_empty_word_is_refused() -> None:
    """After a space it would forbid the space itself."""
    with pytest.raises(BadRequest, match="at least 1 character"):
        BadWords.parse({"words": ["dog", ""]})
