"""Structured output in general: masks against a brute-force parser, ends, batches, and texts that close in time."""

from __future__ import annotations

import builtins
import re
from typing import Any

import pytest
import torch

from posttrain.core.errors import BadRequest, Failure
from posttrain.decode.generation import generate
from posttrain.decode.processors import DecodeState
from posttrain.decode.processors._constrained import Language, _compiled
from posttrain.decode.search.greedy import Greedy
from posttrain.decode.search.sampling import Sampling

pytest.importorskip("llguidance")

from posttrain.decode.processors.grammar import Grammar
from posttrain.decode.processors.regex import Regex

END = 2
HOT = Sampling(temperature=2)
PROMPTS = ["The dog", "The fox runs", "A", "What is the answer?"]


def language(tokenizer: Any, pattern: str) -> Language:
    return Language(tokenizer, Regex(pattern=pattern).language(), 300, frozenset({END}))


def texts(model: Any, processor: Any, **settings: Any) -> list[str]:
    found = generate(model, PROMPTS, search=HOT, processors=[processor], **{"max_new_tokens": 24, **settings})
    assert {generation.finish_reason for generation in found.generations} == {"eos"}
    return [generation.text for generation in found.generations]


@pytest.mark.parametrize("begun", ["", "a", "ab", "aba", "abc"])
def test_masks_are_those_of_brute_force(tiny_tokenizer: Any, begun: str) -> None:
    """(ab)*c: after each beginning a token is allowed if text and token are the beginning of (ab)^n c for some n."""
    sentences = ["ab" * count + "c" for count in range(8)]
    expected = {
        token
        for token in range(3, 300)
        if any(sentence.startswith(begun + tiny_tokenizer.decode([token])) for sentence in sentences)
    }
    if begun in sentences:
        expected = {END}
    allowed = language(tiny_tokenizer, "(ab)*c").allowed(tiny_tokenizer(begun)["input_ids"])
    assert set(allowed.nonzero()[0].tolist()) == expected


def test_the_end_is_allowed_where_the_text_is_complete_and_more_may_follow(tiny_tokenizer: Any) -> None:
    numbers = language(tiny_tokenizer, "[0-9]{2,3}")
    lengths = [bool(numbers.allowed(tiny_tokenizer("7" * count)["input_ids"])[END]) for count in range(4)]
    assert lengths == [False, False, True, True]


def test_every_end_token_counts(tiny_tokenizer: Any) -> None:
    ending = Language(tiny_tokenizer, Regex(pattern="a+").language(), 300, frozenset({0, END}))
    assert ending.allowed([67])[[0, 1, END]].tolist() == [True, False, True]


def test_places_do_not_depend_on_who_asked_before(tiny_tokenizer: Any) -> None:
    """Rows that part, come back and ask twice get what a fresh parser says."""
    shared = language(tiny_tokenizer, "(ab|a)*c?")
    asked = ["a", "ab", "aa", "a", "abab", "aba", "c", "", "ab"]
    for text in asked:
        ids = tiny_tokenizer(text)["input_ids"]
        assert (shared.allowed(ids) == language(tiny_tokenizer, "(ab|a)*c?").allowed(ids)).all()


def test_what_was_never_allowed_is_told(tiny_tokenizer: Any) -> None:
    with pytest.raises(Failure, match="left the structure"):
        language(tiny_tokenizer, "a+").allowed(tiny_tokenizer("b")["input_ids"])


def test_batches_and_seeds(lively: Any) -> None:
    processor = Regex(pattern="[a-z]+( [a-z]+)*[.]")
    together = texts(lively, processor, seed=3)
    assert together == texts(lively, processor, seed=3, batch_size=1)
    assert len(set(together)) == len(PROMPTS)
    for text in together:
        assert re.fullmatch(r"[a-z]+( [a-z]+)*[.]", text)


def test_greedy_takes_the_best_allowed_token(lively: Any) -> None:
    """Of y, ye, yes, n and no, whichever the tokenizer has, the one with the model's highest score comes first."""
    tokenizer = lively.tokenizer
    found = generate(
        lively, ["The dog"], search=Greedy(), processors=[Grammar(lark='start: "yes" | "no"')], max_new_tokens=40
    )
    with torch.no_grad():
        scores = lively.network(tokenizer("The dog", return_tensors="pt")["input_ids"]).logits[0, -1]
    first = [token for token in range(3, 300) if tokenizer.decode([token]) in ("y", "ye", "yes", "n", "no")]
    assert found.generations[0].token_ids[0] == max(first, key=lambda token: float(scores[token]))
    assert found.generations[0].text in ("yes", "no")


@pytest.mark.parametrize("most", [8, 12])
def test_texts_close_in_time(lively: Any, most: int) -> None:
    """Words that could go on for ever, and a sentence that takes seven tokens: three words of one letter, two blanks, a
    full stop and the end."""
    for seed in range(2):
        for text in texts(lively, Regex(pattern="[a-z]+ [a-z]+ [a-z]+[.]"), max_new_tokens=most, seed=seed):
            assert re.fullmatch(r"[a-z]+ [a-z]+ [a-z]+[.]", text)


def test_ways_out_that_go_round_in_circles_are_left(lively: Any) -> None:
    """Where the shortest token leads back, as b does after a, another one is tried."""
    for text in texts(lively, Regex(pattern="(ab)*(cd)*e"), max_new_tokens=12):
        assert re.fullmatch("(ab)*(cd)*e", text)


def test_without_finishing_a_text_may_be_cut(lively: Any) -> None:
    processor = Regex(pattern="[a-z ]{200}", finish=False)
    found = generate(lively, ["The dog"], search=HOT, processors=[processor], max_new_tokens=6).generations[0]
    assert found.finish_reason == "length"
    assert re.fullmatch("[a-z ]+", found.text)


def test_what_cannot_fit_is_refused(lively: Any) -> None:
    with pytest.raises(BadRequest, match=r"max_new_tokens is 5, but the shortest .* about 10 tokens"):
        generate(lively, ["The dog"], search=HOT, processors=[Regex(pattern="[0-9]{10}")], max_new_tokens=5)


def test_nothing_left_is_told(tiny_tokenizer: Any) -> None:
    logits = torch.full((1, 300), -torch.inf)
    logits[0, 70] = 1.0  # d
    state = DecodeState([[1]], [[]], frozenset({END}), 9, tiny_tokenizer)
    with pytest.raises(Failure, match="Put this processor before"):
        Regex(pattern="[0-9]+")(logits, state)


def test_scores_beyond_the_tokenizer_are_forbidden(tiny_tokenizer: Any) -> None:
    """Models pad their vocabulary; the padding stands for no text."""
    state = DecodeState([[1]], [[]], frozenset({END}), 9, tiny_tokenizer)
    found = Regex(pattern="(?s:.+)")(torch.zeros(1, 320), state)
    assert found.shape == (1, 320)
    assert (found[0, 300:] == -torch.inf).all()
    assert (found[0, 5:260] > -torch.inf).any()


def test_without_the_engine_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *rest: Any, **more: Any) -> Any:
        if name.partition(".")[0] == "llguidance":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(BadRequest, match=r"pip install 'posttrain\[grammar\]'"):
        Regex(pattern="a")


def test_a_language_is_compiled_once(lively: Any) -> None:
    _compiled.cache_clear()
    texts(lively, Regex(pattern="[a-z]{3}"))
    assert _compiled.cache_info().misses == 1
