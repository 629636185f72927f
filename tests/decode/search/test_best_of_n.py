"""Best of n: what is drawn, what is returned, and who decides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from posttrain.core import catalog
from posttrain.core.errors import BadRequest, Failure
from posttrain.decode.engine import Engine
from posttrain.decode.generation import generate
from posttrain.decode.rerankers import Reranker
from posttrain.decode.search.beam import Beam
from posttrain.decode.search.best_of_n import BestOfN
from posttrain.decode.search.greedy import Greedy
from posttrain.decode.search.sampling import Sampling
from posttrain.decode.sequence import Generated

PROMPTS = [[5, 6, 7], [20, 21], [33]]
HOT = Sampling(temperature=5.0)


class Sum(Reranker):
    """Prefers large token numbers; writes down what it was asked."""

    seen: list[Any]

    def scores(self, judge: Any, prompt: Any, answers: Sequence[Generated]) -> list[float]:
        self.seen.append((prompt, [list(answer.tokens) for answer in answers]))
        return [float(sum(answer.tokens)) for answer in answers]


class Constant(Reranker):
    """The same for all."""

    value: float = 1.0

    def scores(self, judge: Any, prompt: Any, answers: Sequence[Generated]) -> list[float]:
        return [self.value for _ in answers]


def test_the_best_of_what_was_drawn_is_returned(lively: Any) -> None:
    reranker = Sum(seen=[])
    search = BestOfN(n=6, search=HOT, reranker=reranker, num_return=2)
    found = generate(lively, PROMPTS, search=search, max_new_tokens=5).generations
    for number, (_, drawn) in enumerate(reranker.seen):
        assert len(drawn) == 6
        assert len({tuple(tokens) for tokens in drawn}) > 1
        ranked = sorted(drawn, key=sum, reverse=True)[:2]
        best, second = found[2 * number : 2 * number + 2]
        assert [best.token_ids, second.token_ids] == ranked
        assert [best.score, second.score] == [sum(tokens) for tokens in ranked]
        assert [best.sample, second.sample] == [0, 1]
        assert best.prompt == second.prompt == PROMPTS[number]


def test_each_run_of_each_prompt_has_draws_of_its_own_whatever_the_batch(lively: Any) -> None:
    drawn = []
    for batch_size in (1, 4, 32):
        reranker = Sum(seen=[])
        search = BestOfN(n=4, search=HOT, reranker=reranker)
        generate(lively, PROMPTS, search=search, max_new_tokens=5, batch_size=batch_size, seed=3)
        drawn.append([tokens for _, tokens in reranker.seen])
    assert drawn[0] == drawn[1] == drawn[2]
    assert len({tuple(t) for tokens in drawn[0] for t in tokens}) == 12


def test_the_first_of_equals_is_returned(lively: Any) -> None:
    reranker = Sum(seen=[])
    generate(lively, PROMPTS, search=BestOfN(n=4, search=HOT, reranker=reranker), max_new_tokens=5)
    found = generate(lively, PROMPTS, search=BestOfN(n=4, search=HOT, reranker=Constant()), max_new_tokens=5)
    assert [g.token_ids for g in found.generations] == [tokens[0] for _, tokens in reranker.seen]


def test_every_continuation_of_the_search_is_a_candidate(lively: Any) -> None:
    beams = Beam(width=4, num_return=4)
    reranker = Sum(seen=[])
    search = BestOfN(n=1, search=beams, reranker=reranker, num_return=4)
    found = generate(lively, PROMPTS, search=search, max_new_tokens=5).generations
    expected = [g.token_ids for g in generate(lively, PROMPTS, search=beams, max_new_tokens=5).generations]
    assert [tokens for _, drawn in reranker.seen for tokens in drawn] == expected
    assert len(found) == 12
    assert search.continuations == 4


def test_each_prompt_is_read_once(lively: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[list[int]] = []
    prefill = Engine.prefill
    monkeypatch.setattr(
        Engine, "prefill", lambda self, prompts, *more: read.extend(map(list, prompts)) or prefill(self, prompts, *more)
    )
    generate(lively, PROMPTS, search=BestOfN(n=5, search=HOT), max_new_tokens=3)
    assert read == PROMPTS


def test_the_judge_sees_the_prompt_as_it_was_given(lively: Any) -> None:
    reranker = Sum(seen=[])
    ids = lively.tokenizer("The fox")["input_ids"]
    search = BestOfN(n=1, reranker=reranker)
    messages = [{"role": "user", "content": "Who?"}]
    generate(lively, ["The dog", messages, ids], search=search, max_new_tokens=2)
    generate(lively, ["Who?"], search=search, max_new_tokens=2, chat=True)
    assert [prompt for prompt, _ in reranker.seen] == ["The dog", messages, "The fox", messages]


def test_only_what_is_returned_is_told(lively: Any) -> None:
    heard: dict[int, str] = {}

    def listen(number: int, text: str) -> None:
        heard[number] = heard.get(number, "") + text

    search = BestOfN(n=4, search=HOT, reranker=Sum(seen=[]), num_return=2)
    found = generate(lively, PROMPTS, search=search, max_new_tokens=6, on_text=listen).generations
    assert [heard.get(number, "") for number in range(6)] == [g.text for g in found]
    assert set(heard) <= set(range(6))


def test_by_default_the_likeliest_of_eight_samples(lively: Any) -> None:
    (found,) = generate(lively, PROMPTS[:1], search=BestOfN(), max_new_tokens=6).generations
    draws = generate(lively, PROMPTS[:1] * 8, search=Sampling(), max_new_tokens=6).generations
    best = max(draws, key=lambda g: g.logprob / len(g.token_ids))
    assert found.token_ids == best.token_ids
    assert found.score == pytest.approx(best.logprob / len(best.token_ids))


def test_from_a_recipe(lively: Any) -> None:
    block = {"best_of_n": {"n": 2, "search": "greedy", "reranker": {"majority": {"pattern": r"\w"}}}}
    found = generate(lively, PROMPTS, search=catalog.build("search", block), max_new_tokens=5).generations
    expected = generate(lively, PROMPTS, search=Greedy(), max_new_tokens=5).generations
    assert [g.token_ids for g in found] == [g.token_ids for g in expected]


def test_a_score_must_be_a_number(lively: Any) -> None:
    with pytest.raises(Failure, match="not a number"):
        generate(lively, PROMPTS, search=BestOfN(n=2, reranker=Constant(value=float("nan"))), max_new_tokens=2)


def test_no_more_are_returned_than_are_drawn() -> None:
    with pytest.raises(BadRequest, match="num_return 3 is more than the 2 answers"):
        BestOfN.parse({"n": 2, "num_return": 3})
