"""Every perturbation, found in the catalog: deterministic, keeps digits, never empties a text, leaves what it can't."""

from __future__ import annotations

from random import Random

import pytest

from posttrain.bench.perturbations import Perturbation
from posttrain.core import catalog

TEXTS = (
    "Emily didn't buy 3 big books in 2019, because she wasn't rich.",
    "If 12 people come, we'll need 5 cars. Andrew and his wife can't drive, but their daughter can!",
    "When it rains, the street is wet.\nQ: What is 3.5 + .5?\nA:",
    "HE IS THE KING, AND I AM HER BROTHER.",
    "état élevé, naïve Straße — 数字 ２０ und ½",
    "  leading and trailing blanks  ",
    "one",
)
NOTHING_THERE = ("", "   ", "\n\t ", "...", "7", "---123---")


def variants() -> list[Perturbation]:
    """Every method as it is by default and with each choice that a setting of it offers."""
    found = []
    for term in catalog.terms("perturbation"):
        cls = catalog.find("perturbation", term)
        found.append(cls())
        for name, field in cls.model_fields.items():
            choices = getattr(field.annotation, "__args__", ())
            if all(isinstance(choice, str) for choice in choices):
                found += [cls(**{name: choice}) for choice in choices if choice != field.default]
    return found


def digits(text: str) -> list[str]:
    return [letter for letter in text if letter.isdigit()]


@pytest.fixture(params=variants(), ids=repr)
def perturbation(request):
    return request.param


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("seed", range(5))
def test_the_same_draw_gives_the_same_text_and_digits_stay(perturbation, text, seed):
    changed = perturbation.apply(text, Random(seed))
    assert changed == perturbation.apply(text, Random(seed))
    assert digits(changed) == digits(text)
    assert changed.strip()


def test_something_is_changed(perturbation):
    """Of these texts at least one is not what it was: no method does nothing."""
    assert any(perturbation.apply(text, Random(0)) != text for text in TEXTS)


@pytest.mark.parametrize("text", NOTHING_THERE)
def test_texts_without_words_lose_nothing(perturbation, text):
    changed = perturbation.apply(text, Random(0))
    assert text.strip() in changed
    assert bool(changed.strip()) == bool(text.strip())


@pytest.mark.parametrize("text", TEXTS)
def test_twice_is_once_where_it_is_said(perturbation, text):
    if perturbation.idempotent:
        once = perturbation.apply(text, Random(0))
        assert perturbation.apply(once, Random(1)) == once


def test_idempotence_is_said_of_some():
    said = {catalog.term_of(each) for each in variants() if each.idempotent}
    assert said >= {"case", "contractions", "punctuation"}


def test_it_survives_a_recipe(perturbation):
    assert catalog.build("perturbation", catalog.dump(perturbation)) == perturbation
