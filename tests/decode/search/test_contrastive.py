"""Contrastive search: the choice worked by hand, and whole texts against a loop without a cache in float64."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from posttrain.decode.generation import generate
from posttrain.decode.processors.repetition_penalty import RepetitionPenalty
from posttrain.decode.processors.top_k import TopK
from posttrain.decode.search.contrastive import Contrastive, _choose
from posttrain.decode.search.greedy import Greedy
from posttrain.models.forward import body

PROMPTS = [[5, 6, 7, 8, 9, 10, 11, 12, 13, 14], [20, 21], [33], [44, 45, 46, 47, 48], [60, 61, 62]]


class Before:
    """A text with given directions and candidates of given probabilities."""

    def __init__(self, directions: list[list[float]], probabilities: list[float]) -> None:
        self.directions = torch.tensor(directions)
        self.probabilities = torch.tensor(probabilities)


@pytest.mark.parametrize(("penalty", "choice"), [(0.0, 0), (0.2, 0), (0.35, 1), (0.6, 2), (1.0, 2)])
def test_by_hand(penalty: float, choice: int) -> None:
    """Directions so far (1, 0) and (0, 1); candidates of probability 0.8, 0.15, 0.05 and one that is forbidden.

    (2, 0) is as like as can be, 1; (-1, -2) / √5 has max(-0.447, -0.894) = -0.447, (-3, -4) / 5 has -0.6, and the
    forbidden one -0.707. Scores at 0.2: 0.64 - 0.2 = 0.44, 0.12 + 0.089 = 0.209, 0.04 + 0.12 = 0.16. At 0.35: 0.17,
    0.0975 + 0.1565 = 0.254, 0.0325 + 0.21 = 0.2425. At 0.6: -0.28, 0.06 + 0.268 = 0.328, 0.02 + 0.36 = 0.38.
    """
    text = Before([[1.0, 0.0], [0.0, 1.0]], [0.8, 0.15, 0.05, -torch.inf])
    states = torch.tensor([[[2.0, 0.0], [-1.0, -2.0], [-3.0, -4.0], [-5.0, -5.0]]])
    assert _choose([text], states, penalty) == [choice]  # type: ignore[list-item]


def reference(model: Any, prompt: list[int], search: Contrastive, most: int, processors: Any = ()) -> list[int]:
    """Equation 5, every candidate of every step run over the whole text."""
    from posttrain.decode.processors import DecodeState

    network = deepcopy(model.network).double()
    penalty = search.alpha if search.weighting == "penalty" else 1 - search.alpha
    tokens = list(prompt)
    with torch.no_grad():
        while len(tokens) < len(prompt) + most:
            logits = network(torch.tensor([tokens])).logits[:, -1]
            for processor in processors:
                logits = processor(logits, DecodeState(prompts=[prompt], generated=[tokens[len(prompt) :]]))
            probabilities, candidates = logits.softmax(-1)[0].topk(search.k)
            whole = torch.tensor([[*tokens, candidate] for candidate in candidates.tolist()])
            states = body(network)(whole).last_hidden_state
            likeness = torch.cosine_similarity(states[:, -1:], states[:, :-1], dim=-1).amax(1)
            scores = (1 - penalty) * probabilities - penalty * likeness - 1e9 * (probabilities == 0)
            tokens.append(int(candidates[scores.argmax()]))
            if tokens[-1] == 2:
                break
    return tokens[len(prompt) :]


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "bloom"])
@pytest.mark.parametrize("search", [Contrastive(), Contrastive(k=7, alpha=0.3, weighting="probability")])
def test_equals_the_definition(make_model: Any, architecture: str, search: Contrastive) -> None:
    model = make_model(architecture)
    expected = [reference(model, prompt, search, 12) for prompt in PROMPTS]
    greedy = [g.token_ids for g in generate(model, PROMPTS, search=Greedy(), max_new_tokens=12).generations]
    assert expected != greedy
    for batch_size in (2, 8):
        result = generate(model, PROMPTS, search=search, max_new_tokens=12, batch_size=batch_size)
        assert [g.token_ids for g in result.generations] == expected


def test_the_weightings_are_one_formula(lively: Any) -> None:
    one, other = Contrastive(alpha=0.3), Contrastive(alpha=0.7, weighting="probability")
    found = [generate(lively, PROMPTS, search=s, max_new_tokens=10).generations for s in (one, other)]
    assert found[0] == found[1]


def test_processors_come_first_and_what_they_forbid_is_no_candidate(lively: Any) -> None:
    search = Contrastive(k=6, alpha=0.9)
    chain = [RepetitionPenalty(penalty=1.5), TopK(k=3)]
    expected = [reference(lively, prompt, search, 10, chain) for prompt in PROMPTS]
    found = generate(lively, PROMPTS, search=search, processors=chain, max_new_tokens=10).generations
    assert [g.token_ids for g in found] == expected
    one = generate(lively, PROMPTS, search=search, processors=[TopK(k=1)], max_new_tokens=10).generations
    greedy = generate(lively, PROMPTS, search=Greedy(), max_new_tokens=10).generations
    assert [g.token_ids for g in one] == [g.token_ids for g in greedy]


@pytest.mark.parametrize(
    "search", [Contrastive(alpha=0), Contrastive(k=1), Contrastive(alpha=1, weighting="probability")]
)
def test_limits_are_greedy(lively: Any, search: Contrastive) -> None:
    expected = generate(lively, PROMPTS, search=Greedy(), max_new_tokens=12).generations
    found = generate(lively, PROMPTS, search=search, max_new_tokens=12).generations
    assert [g.token_ids for g in found] == [g.token_ids for g in expected]
    for one, other in zip(found, expected):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def test_more_candidates_than_words(lively: Any) -> None:
    (found,) = generate(lively, [[5]], search=Contrastive(k=1000), max_new_tokens=2, ignore_eos=True).generations
    assert found.token_ids == reference(lively, [5], Contrastive(k=300), 2)


def test_less_repetition_than_greedy_search(tiny_llama: Any) -> None:
    """A fresh network without life of its own repeats one token for ever; the penalty makes it move on."""

    def distinct(search: Any) -> int:
        (found,) = generate(tiny_llama, [[5, 6]], search=search, max_new_tokens=24, ignore_eos=True).generations
        return len(set(found.token_ids))

    assert distinct(Contrastive(k=8, alpha=0.6)) > distinct(Greedy())


@pytest.mark.parametrize("settings", [{"k": 0}, {"alpha": 1.1}, {"weighting": "both"}])
def test_refuses(settings: Any) -> None:
    with pytest.raises(ValidationError):
        Contrastive(**settings)
