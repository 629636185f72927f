"""Difficulty: bits of each token by a plain call, pieces that make up the text, and a page that can do no harm."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from measure.masked_toy import make_tiny_masked
from models.test_text_tokens import word_tokenizer
from posttrain.core.errors import BadRequest, Failure
from posttrain.curate.difficulty import Piece, difficulty_map, render_page, write_page
from posttrain.models.language_model import LanguageModel

TEXT = 'The fox ran. "Where?" It fell into the naïve river — 42 times.\n\nThe dog\nsleeps'


def test_bits_are_those_of_a_plain_call(tiny_llama: LanguageModel) -> None:
    tokenizer = tiny_llama.tokenizer
    ids = [tokenizer.bos_token_id, *tokenizer(TEXT)["input_ids"]]
    with torch.no_grad():
        logprobs = tiny_llama.network(torch.tensor([ids])).logits[0, :-1].double().log_softmax(-1)
    bits = [-float(logprobs[n, token]) / math.log(2) for n, token in enumerate(ids[1:])]
    found = difficulty_map(tiny_llama, TEXT)
    pieces = [piece for segment in found.segments for piece in segment.pieces]
    assert "".join(piece.text for piece in pieces) == TEXT
    assert sum(piece.tokens for piece in pieces) == len(bits) == found.tokens
    assert sum(piece.bits for piece in pieces if piece.bits is not None) == pytest.approx(sum(bits), rel=1e-5)
    assert found.bits_per_token == pytest.approx(sum(bits) / len(bits), rel=1e-5)
    assert found.perplexity == pytest.approx(2 ** (sum(bits) / len(bits)), rel=1e-5)
    # ï is two tokens of one byte each: one piece, with the bits of both.
    place = next(n for n, piece in enumerate(pieces) if "ï" in piece.text)
    before = sum(piece.tokens for piece in pieces[:place])
    assert pieces[place].tokens == 2
    assert pieces[place].bits == pytest.approx(sum(bits[before : before + 2]), rel=1e-5)
    hardest = found.hardest(3)
    assert [piece.bits for piece in hardest] == sorted((p.bits for p in pieces if p.bits), reverse=True)[:3]


@pytest.mark.parametrize(
    ("kind", "right"),
    [
        ("sentence", ["The fox ran.", ' "Where?"', " It fell into the naïve river — 42 times.", "\n\nThe dog\nsleeps"]),
        ("paragraph", ['The fox ran. "Where?" It fell into the naïve river — 42 times.\n\n', "The dog\nsleeps"]),
    ],
)
def test_segments(tiny_llama: LanguageModel, kind: str, right: list[str]) -> None:
    found = difficulty_map(tiny_llama, TEXT, segments=kind)  # type: ignore[arg-type]
    texts = [segment.text for segment in found.segments]
    assert [text.split() for text in texts if text.split()] == [text.split() for text in right]
    assert "".join(texts) == TEXT


def test_means_of_a_segment_by_hand(tiny_llama: LanguageModel) -> None:
    """Zero weights make each of three words cost log2 300 bits; a line of two words has 7 bytes in its tokens."""
    with torch.no_grad():
        tiny_llama.network.lm_head.weight.zero_()
    tiny_llama.tokenizer = word_tokenizer()
    first, second = difficulty_map(tiny_llama, "one\nthree two\n", segments="line").segments
    assert (first.text, second.text) == ("one\n", "three two\n")
    assert first.bits_per_token == second.bits_per_token == pytest.approx(math.log2(300), rel=1e-6)
    assert second.bits_per_byte == pytest.approx(2 * math.log2(300) / 8, rel=1e-6)
    assert second.perplexity == pytest.approx(300, rel=1e-5)
    # Without a beginning the first word isn't scored.
    own = difficulty_map(tiny_llama, "one\nthree two\n", segments="line", special="own")
    assert own.segments[0].bits_per_token is None and own.tokens == 2


def test_the_map_may_end_early(tiny_llama: LanguageModel) -> None:
    found = difficulty_map(tiny_llama, TEXT, max_tokens=6)
    text = "".join(segment.text for segment in found.segments)
    assert found.tokens == 5
    assert TEXT.startswith(text) and 0 < len(text) < len(TEXT)


@pytest.mark.parametrize(
    ("bits", "shade"), [(0.99, 0), (1, 1), (1.9, 1), (2, 2), (11, 6), (15, 8), (400, 8), (None, 0)]
)
def test_shades(bits: float | None, shade: int) -> None:
    assert Piece("a", bits, 1).shade == shade


class Page(HTMLParser):
    """The elements of a page and the text of its list."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text, self._inside = "", 0
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attributes}
        self._inside += ("class", "text") in attributes

    def handle_endtag(self, tag: str) -> None:
        self._inside -= tag == "div" and self._inside > 0

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.text += data


def test_the_page_shows_the_text_and_nothing_else_happens(tiny_llama: LanguageModel, tmp_path: Path) -> None:
    nasty = "<script>alert(1)</script> & <img src=x onerror=y> \" '\n\tThe end. \ud800"
    found = difficulty_map(tiny_llama, nasty.replace("\ud800", "é"))
    write_page(found, tmp_path / "page.html", title="<b>a</b>", model="m & m")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not page.tags & {"script", "img", "link", "iframe"}
    assert not any(name.startswith("on") for name in page.attributes)
    assert page.text == nasty.replace("\ud800", "é")
    assert "default-src 'none'" in text
    assert "&lt;b&gt;a&lt;/b&gt;" in text and "m &amp; m" in text
    assert not re.search(r"(?:src|href)=", text.replace("&lt;img src=x", ""))
    assert "bits, probability" in text
    surrogate = render_page(found, title="\ud800", model="m")
    surrogate.encode("utf-8")


def test_what_can_not_be_drawn_is_refused(tiny_llama: LanguageModel) -> None:
    with pytest.raises(BadRequest, match="predicts no next token"):
        difficulty_map(make_tiny_masked(), "the dog")
    with pytest.raises(BadRequest, match="fewer than two tokens"):
        difficulty_map(tiny_llama, "", special="own")


@pytest.mark.parametrize("factor", [math.nan, 1e5])
def test_a_model_without_sense_draws_no_page(tiny_llama: LanguageModel, factor: float) -> None:
    with torch.no_grad():
        tiny_llama.network.model.norm.weight.mul_(factor)
    with pytest.raises(Failure, match="not numbers that have a perplexity"):
        difficulty_map(tiny_llama, TEXT)


def test_the_signature_says_how_it_was_made(tiny_llama: LanguageModel) -> None:
    found = difficulty_map(tiny_llama, TEXT)
    assert found.to_dict()["signature"] == found.signature
    assert found.signature.startswith("difficulty|model:")
    differing = [
        difficulty_map(tiny_llama, TEXT, **changed).signature
        for changed in ({}, {"window": 32}, {"special": "none"}, {"segments": "line"}, {"max_tokens": 20})
    ]
    assert differing[0] == found.signature and len(set(differing)) == 5
    assert difficulty_map(tiny_llama, f"{TEXT}!").signature != found.signature
