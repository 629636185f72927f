"""One sequence by itself: how it ends, what its text is, and its own random draws."""

from __future__ import annotations

import random
from typing import Any

import pytest

from posttrain.decode.sequence import Ending, Generated


class Letters:
    """A tokenizer of which token i is the i-th letter, and 26 the special token ``<e>``."""

    def decode(self, tokens: list[int], skip_special_tokens: bool, **_: Any) -> str:
        special = "" if skip_special_tokens else "<e>"
        return "".join(special if token == 26 else chr(ord("a") + token) for token in tokens)


def ids(text: str) -> list[int]:
    return [ord(letter) - ord("a") for letter in text]


def sequence(ending: Ending, **settings: Any) -> Generated:
    given = {"prompt_index": 0, "sample": 0, "prompt": [0], "tokenizer": Letters(), **settings}
    return Generated(ending=ending, **given)


def fill(row: Generated, tokens: list[int]) -> int:
    """Append until it ends; returns how many were taken."""
    for count, token in enumerate(tokens, 1):
        row.append(token, -float(count))
        if row.finish_reason:
            return count
    return len(tokens)


@pytest.mark.parametrize("followed", [False, True])
@pytest.mark.parametrize(
    ("ending", "taken", "reason", "text"),
    [
        # The tokens are "abcdef".
        (Ending(10), 6, None, "abcdef"),
        (Ending(3), 3, "length", "abc"),
        (Ending(10, eos_ids=frozenset(ids("cd"))), 3, "eos", "ab"),  # an ordinary token ends it and isn't text
        (Ending(10, stop_ids=frozenset(ids("d"))), 4, "stop", "abc"),
        (Ending(10, stop=("de", "zz")), 5, "stop", "abc"),  # the tokens go on to the one that completes it
        (Ending(3, eos_ids=frozenset(ids("c"))), 3, "eos", "ab"),  # the last token allowed, yet the model's own end
        (Ending(3, stop=("c",)), 3, "stop", "ab"),
        (Ending(10, eos_ids=frozenset(ids("c")), stop_ids=frozenset(ids("c"))), 3, "eos", "ab"),
    ],
)
def test_endings(ending: Ending, taken: int, reason: str | None, text: str, followed: bool) -> None:
    """The same whether or not somebody reads the text as it comes."""
    pieces: list[str] = []
    row = sequence(ending, listener=pieces.append if followed else None)
    assert fill(row, ids("abcdef")) == taken
    assert row.tokens == ids("abcdef")[:taken]
    assert row.logprobs == [-1.0, -2.0, -3.0, -4.0, -5.0, -6.0][:taken]
    assert (row.finish_reason, row.text) == (reason, text)
    if followed and reason:
        assert "".join(pieces) == text


def test_what_could_begin_a_stop_string_is_released_when_the_sequence_ends() -> None:
    pieces: list[str] = []
    row = sequence(Ending(2, stop=("bx",)), listener=pieces.append)
    row.append(0, 0.0)
    row.append(1, 0.0)
    assert pieces == ["a", "b"]
    assert row.text == "ab"


def test_special_tokens_are_no_text() -> None:
    row = sequence(Ending(3))
    fill(row, [0, 26, 1])
    assert row.text == "ab"


def test_an_empty_text() -> None:
    row = sequence(Ending(3, eos_ids=frozenset({26})))
    assert row.text == ""
    fill(row, [26])
    assert (row.text, row.finish_reason) == ("", "eos")


def test_draws_belong_to_seed_prompt_and_sample() -> None:
    """Repeatable, and different as soon as any of the three is; 1/11 and 11/1 must not be the same."""
    keys = [(seed, index, sample) for seed in (0, 1, 11) for index in (0, 1, 11) for sample in (0, 1, 11)]
    rows = [sequence(Ending(1), seed=seed, prompt_index=index, sample=sample) for seed, index, sample in keys]
    first = [row.random.random() for row in rows]
    assert len(set(first)) == len(keys)
    assert first[5] == random.Random("0/1/11").random()
    assert rows[5].random.random() != first[5]  # one generator, which goes on


def test_two_sequences_share_nothing() -> None:
    one, other = sequence(Ending(2)), sequence(Ending(2))
    one.append(3, -1.0)
    assert (other.tokens, other.logprobs) == ([], [])


@pytest.mark.parametrize("stop", [(), ("abd",)])
def test_a_fork_goes_on_by_itself_and_nobody_listens(stop: tuple[str, ...]) -> None:
    pieces: list[str] = []
    row = sequence(Ending(5, stop=stop), listener=pieces.append)
    fill(row, [0, 1])
    fork = row.fork()
    fill(fork, [3])
    fill(row, [2])
    assert (row.tokens, row.text, row.finish_reason) == ([0, 1, 2], "abc", None)
    assert (fork.tokens, len(fork.logprobs), fork.length) == ([0, 1, 3], 3, 3)
    assert (fork.text, fork.finish_reason) == (("", "stop") if stop else ("abd", None))
    fill(row, [4, 4])
    assert "".join(pieces) == "abcee"
