"""What every search promises, for all that are found."""

from __future__ import annotations

from typing import Any

import pytest

from posttrain.core import catalog
from posttrain.decode.generation import generate

PROMPTS = [[5, 6, 7, 8, 9, 10, 11, 12, 13, 14], [20, 21], [33], [44, 45, 46, 47, 48], [60, 61, 62]]


@pytest.fixture(params=catalog.terms("search"))
def search(request: pytest.FixtureRequest) -> Any:
    return catalog.find("search", request.param)()


def tokens(model: Any, search: Any, **arguments: Any) -> list[list[int]]:
    result = generate(model, arguments.pop("prompts", PROMPTS), search=search, **{"max_new_tokens": 12, **arguments})
    return [generation.token_ids for generation in result.generations]


def test_the_batch_does_not_matter(lively: Any, search: Any) -> None:
    expected = tokens(lively, search)
    for batch_size in (1, 2, 4):
        assert tokens(lively, search, batch_size=batch_size) == expected
    assert tokens(lively, search, prompts=PROMPTS[:2]) == expected[: 2 * len(expected) // len(PROMPTS)]


def test_the_same_seed_gives_the_same_text(lively: Any, search: Any) -> None:
    assert tokens(lively, search, seed=5) == tokens(lively, search, seed=5)


def test_keeps_to_max_new_tokens(lively: Any, search: Any) -> None:
    for most in (1, 2, 7):
        lengths = [len(t) for t in tokens(lively, search, max_new_tokens=most, ignore_eos=True)]
        assert lengths == [most] * len(lengths)


def test_works_on_padded_batches_too(make_model: Any, search: Any) -> None:
    model = make_model("bloom")
    assert tokens(model, search, batch_size=2) == tokens(model, search, batch_size=1)


def test_the_same_number_of_continuations_for_each_prompt(lively: Any, search: Any) -> None:
    prompts = [f"prompt {number}" for number in range(3)]
    given = [g.prompt for g in generate(lively, prompts, search=search, max_new_tokens=3).generations]
    assert given == sorted(given)
    assert len(given) % 3 == 0
    assert given.count(prompts[0]) * 3 == len(given)


def test_survives_the_recipe(search: Any) -> None:
    assert catalog.build("search", catalog.dump(search)) == search
