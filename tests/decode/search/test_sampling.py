"""Sampling: frequencies, order of the settings, seeds, samples."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

from posttrain.decode.generation import generate
from posttrain.decode.processors import DecodeState, LogitsProcessor
from posttrain.decode.processors.temperature import Temperature
from posttrain.decode.processors.top_k import TopK
from posttrain.decode.processors.top_p import TopP
from posttrain.decode.search.greedy import Greedy
from posttrain.decode.search.sampling import Sampling

PROMPTS = [[5, 6, 7], [20, 21], [33]]


class Fixed(LogitsProcessor):
    """Tokens 70, 71, … get the given probabilities, all others none."""

    probabilities: list[float]

    def __call__(self, logits: torch.Tensor, state: DecodeState) -> torch.Tensor:
        fixed = torch.full_like(logits, -torch.inf)
        fixed[:, 70 : 70 + len(self.probabilities)] = torch.tensor(self.probabilities).log()
        return fixed


def draws(model: Any, search: Sampling, probabilities: list[float], seed: int = 0) -> Counter[int]:
    """How often 70 + i was drawn, over 50 tokens of each sample."""
    result = generate(
        model,
        [[5]],
        search=search,
        processors=[Fixed(probabilities=probabilities)],
        max_new_tokens=50,
        batch_size=64,
        seed=seed,
    )
    return Counter(token - 70 for g in result.generations for token in g.token_ids)


def test_frequencies_follow_the_distribution(lively: Any) -> None:
    """1600 draws; the standard error of a frequency is at most 0.0125, four of them 0.05."""
    counts = draws(lively, Sampling(num_samples=32), [0.5, 0.0, 0.3, 0.2])
    assert sum(counts.values()) == 1600
    assert counts[1] == 0
    for token, probability in ((0, 0.5), (2, 0.3), (3, 0.2)):
        assert counts[token] / 1600 == pytest.approx(probability, abs=0.05)


def test_temperature_comes_before_top_p(lively: Any) -> None:
    """p = (0.5, 0.3, 0.2) at τ = 0.5 is p² normalised: 0.25, 0.09, 0.04 of 0.38 = (0.658, 0.237, 0.105).

    Top-p 0.65 then keeps the first token alone; before the temperature it would keep two.
    """
    counts = draws(lively, Sampling(temperature=0.5, top_p=0.65, num_samples=4), [0.5, 0.3, 0.2])
    assert set(counts) == {0}
    counts = draws(lively, Sampling(top_p=0.65, num_samples=4), [0.5, 0.3, 0.2])
    assert set(counts) == {0, 1}


def test_top_k_comes_before_top_p(lively: Any) -> None:
    """k = 2 leaves 0.4 and 0.3, that is 0.571 and 0.429: 0.55 needs the first only. Of all four it needs two."""
    assert set(draws(lively, Sampling(top_k=2, top_p=0.55, num_samples=4), [0.4, 0.3, 0.2, 0.1])) == {0}
    assert set(draws(lively, Sampling(top_p=0.55, num_samples=4), [0.4, 0.3, 0.2, 0.1])) == {0, 1}


def test_the_settings_are_the_processors(lively: Any) -> None:
    chain = [Temperature(temperature=1.7), TopK(k=20), TopP(p=0.8)]
    by_settings = generate(lively, PROMPTS, search=Sampling(temperature=1.7, top_k=20, top_p=0.8), max_new_tokens=10)
    by_processors = generate(lively, PROMPTS, search=Sampling(), processors=chain, max_new_tokens=10)
    assert by_settings.generations == by_processors.generations


@pytest.mark.parametrize("search", [Sampling(temperature=0.0), Sampling(top_k=1), Sampling(top_p=1e-9)])
def test_limits_are_greedy(lively: Any, search: Sampling) -> None:
    expected = generate(lively, PROMPTS, search=Greedy(), max_new_tokens=12).generations
    assert generate(lively, PROMPTS, search=search, max_new_tokens=12).generations == expected


def test_samples_and_seeds_differ(lively: Any) -> None:
    def texts(seed: int) -> list[tuple[int, ...]]:
        search = Sampling(temperature=3.0, num_samples=3)
        result = generate(lively, [PROMPTS[0], PROMPTS[0]], search=search, max_new_tokens=8, seed=seed, batch_size=4)
        return [tuple(g.token_ids) for g in result.generations]

    assert len({*texts(0), *texts(1)}) == 12
