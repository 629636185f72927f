"""Terms looked up in texts."""

from __future__ import annotations

import pytest

from posttrain.guard._terms import Terms, words_of


def found(terms: list[str], text: str) -> list[tuple[str, str]]:
    return [(text[start:end], term) for start, end, term in Terms(terms, str.lower).find(words_of(text))]


@pytest.mark.parametrize(
    ("terms", "text", "places"),
    [
        (["ass"], "assess the class, ass", ["ass"]),
        (["Kill you"], "kill you, kill  you, kill - you, killyou", ["kill you", "kill  you", "kill - you", "killyou"]),
        (["kill you"], "kill your; kill ..... you; skill you", []),
        (["kill*"], "killing kills kill skill", ["killing", "kills", "kill"]),
        (["go* away"], "going away goes away", ["going away", "goes away"]),
        (["i'll go"], "i'll go ill go", ["i'll go"]),
        (["a", "a b", "b"], "a b", ["a", "a b", "b"]),
        (["", "*", "..."], "a b", []),
        (["x"], "", []),
    ],
)
def test_whole_words(terms, text, places):
    assert [place for place, _ in found(terms, text)] == places


def test_a_match_says_what_was_written():
    assert found(["Kill YOU"], "kill you") == [("kill you", "Kill YOU")]


def test_many_terms():
    terms = [f"word{i} more" for i in range(5000)]
    assert found(terms, "word4999 more or word77 mor") == [("word4999 more", "word4999 more")]
