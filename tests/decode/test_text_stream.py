"""Text released token by token."""

from __future__ import annotations

import random
from typing import Any

import pytest

from posttrain.decode.text_stream import TextStream, decode


def stream(tokenizer: Any, tokens: list[int], stop: tuple[str, ...] = ()) -> tuple[list[str], str, int | None]:
    """The pieces, the text, and the place of the token at which a stop string was complete."""
    pieces: list[str] = []
    reader = TextStream(tokenizer, stop, pieces.append)
    for place, token in enumerate(tokens):
        if reader.append(token):
            return pieces, reader.text, place
    reader.finish()
    return pieces, reader.text, None


def test_a_character_of_several_tokens_comes_whole(tiny_tokenizer: Any) -> None:
    tokens = tiny_tokenizer("aß😀b")["input_ids"]  # ß is 2 bytes, 😀 4, each byte a token
    assert len(tokens) == 8
    assert stream(tiny_tokenizer, tokens) == (["a", "ß", "😀", "b"], "aß😀b", None)


def test_what_stays_incomplete_comes_at_the_end(tiny_tokenizer: Any) -> None:
    tokens = tiny_tokenizer("a😀")["input_ids"][:-1]
    pieces, text, _ = stream(tiny_tokenizer, tokens)
    assert "".join(pieces) == text == decode(tiny_tokenizer, tokens)
    assert pieces[0] == "a"


def test_the_beginning_of_a_stop_string_is_held_back(tiny_tokenizer: Any) -> None:
    tokens = [tiny_tokenizer(letter)["input_ids"][0] for letter in "xababc"]
    assert stream(tiny_tokenizer, tokens, ("abc",)) == (["x", "ab"], "xab", 5)
    pieces, text, place = stream(tiny_tokenizer, tokens[:-1], ("abc",))
    assert ("".join(pieces), text, place) == ("xabab", "xabab", None)


def test_the_earliest_of_several_stop_strings_counts(tiny_tokenizer: Any) -> None:
    tokens = tiny_tokenizer("one two")["input_ids"]
    assert stream(tiny_tokenizer, tokens, ("two", "e t"))[1] == "on"


def test_a_stop_string_is_seen_before_an_incomplete_character(tiny_tokenizer: Any) -> None:
    class Joined:
        """One token that ends a stop string and begins a character."""

        def decode(self, tokens: list[int], **_: Any) -> str:
            return b"".join({0: b"a", 1: b"END\xf0\x9f", 2: b"\x98\x80"}[t] for t in tokens).decode(errors="replace")

    assert stream(Joined(), [0, 1, 2], ("END",)) == (["a"], "a", 1)


@pytest.mark.parametrize("seed", range(5))
def test_pieces_join_to_the_whole_for_any_tokens(tiny_tokenizer: Any, seed: int) -> None:
    """Random tokens are mostly broken UTF-8 with special tokens in between."""
    generator = random.Random(seed)
    tokens = [generator.randrange(300) for _ in range(60)]
    pieces, text, _ = stream(tiny_tokenizer, tokens)
    assert "".join(pieces) == text == decode(tiny_tokenizer, tokens)


def test_a_fork_knows_what_is_held_back(tiny_tokenizer: Any) -> None:
    """After "on" and the first half of "é" each goes on by itself."""
    first, second = tiny_tokenizer("é")["input_ids"]
    heard: list[str] = []
    one = TextStream(tiny_tokenizer, ("nex",), heard.append)
    for token in [*tiny_tokenizer("on")["input_ids"], first]:
        assert not one.append(token)
    other = one.fork()
    assert not one.append(second)
    (letter,) = tiny_tokenizer("x")["input_ids"]
    other.append(letter)
    other.finish()
    one.finish()
    assert (one.text, other.text) == ("oné", "on\N{REPLACEMENT CHARACTER}x")
    assert "".join(heard) == "oné"


@pytest.mark.real_model
def test_real_text_in_several_scripts(smollm2: Any) -> None:
    text = "Füße, naïve façade — 東京は大きい。 🙂🙃 Привет! \n\tdef f(x):\n    return x"
    tokens = smollm2.tokenizer(text)["input_ids"]
    pieces, streamed, _ = stream(smollm2.tokenizer, tokens)
    assert "".join(pieces) == streamed == text
    assert len(pieces) > 20
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)
