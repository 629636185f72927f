"""Texts as a filter sees them."""

from __future__ import annotations

import pytest

from posttrain.guard._plain_form import has_long_run, plain, readings, squeezed


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("Kill", "kill"),
        ("Ｋｉｌｌ", "kill"),  # full width
        ("𝓴𝖎𝕝𝗹", "kill"),  # mathematical letters
        ("кіll", "kill"),  # Cyrillic к and і
        ("κιll", "kill"),  # Greek
        ("k\u200bi\u00adl\u2060l", "kill"),  # zero width space, soft hyphen, word joiner
        ("kíll̈", "kill"),
        ("k\u0336i\u0336l\u0336l\u0336", "kill"),  # struck through
        ("🅺🅸🅻🅻", "kill"),
        ("🇰🇮🇱🇱", "kill"),
        ("ⓚⓘⓛⓛ", "kill"),
        ("".join(chr(0xE0000 + ord(c)) for c in "kill"), "kill"),  # invisible tag characters
        ("ﬁne Straße", "fine strasse"),
        ("naïve café, 2024!", "naive cafe, 2024!"),
        ("日本語", "日本語"),
        ("", ""),
    ],
)
def test_lookalikes_are_read_as_letters(text, read):
    assert plain(text).text == read


def test_characters_know_where_they_come_from():
    """ﬁ is one character and two letters; the accent belongs to the e before it; the zero width space to nothing."""
    text = "ﬁe\u0301\u200bx"
    form = plain(text)
    assert form.text == "fiex"
    assert [form.span(i, i + 1) for i in range(4)] == [(0, 1), (0, 1), (1, 3), (4, 5)]
    assert form.span(1, 4) == (0, 5)


def other_readings(text: str) -> list[str]:
    return [form.text for form in readings(plain(text))[1:]]


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("k1ll", "kill"),
        ("b0mb", "bomb"),
        ("k!ll him!", "kill him!"),
        ("@$$", None),  # no letter
        ("4b3", "abe"),
        ("a11", "all"),
        ("k i l l", "kill"),
        ("k.i.l.l", "kill"),
        ("k  i  l  l   y  o  u", "kill you"),
        ("k i 1 l", "kill"),
        ("ki-ll", "kill"),
    ],
)
def test_other_ways_to_read(text, read):
    assert (read in other_readings(text)) if read else (other_readings(text) == [])


def test_numbers_and_prose_are_left_alone():
    for text in ("it costs 1000 in 2024", "I am a man", "wait! what? 5 + 3", "A b"):
        assert other_readings(text) == []


def test_only_the_surroundings_of_a_change_are_read_again():
    text = "word " * 500 + "k1ll" + " word" * 500
    parts = readings(plain(text))[1:]
    assert all(200 < len(part.text) < 1200 for part in parts)
    for part in parts[:1]:
        place = part.text.index("kill")
        assert text[slice(*part.span(place, place + 4))] == "k1ll"
        assert part.text.startswith("word") and part.text.endswith("word")


def test_repeated_letters_are_one_and_cover_all():
    text = "kiiill goood"
    form = squeezed(plain(text))
    assert form.text == "kil god"
    assert [text[slice(*form.span(i, i + 1))] for i in range(7)] == ["k", "iii", "ll", " ", "g", "ooo", "d"]
    assert squeezed(plain("")).text == ""
    assert has_long_run("goood") and not has_long_run("good 000")
