"""Beam search: worked by hand on a table of probabilities, and token by token against transformers."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from posttrain.decode.generation import Generation, generate
from posttrain.decode.processors import DecodeState, LogitsProcessor
from posttrain.decode.processors.no_repeat_ngram import NoRepeatNgram
from posttrain.decode.processors.repetition_penalty import RepetitionPenalty
from posttrain.decode.search.beam import Beam
from posttrain.decode.search.greedy import Greedy

PROMPTS = [[5, 6, 7, 8, 9, 10, 11, 12, 13, 14], [20, 21], [33], [44, 45, 46, 47, 48], [60, 61, 62]]
END = 2
A, B, C = 70, 71, 72


class Table(LogitsProcessor):
    """The probabilities of what follows a text; what isn't named has none, and after an unknown text comes the end."""

    rows: dict[str, dict[int, float]]

    def __call__(self, logits: torch.Tensor, state: DecodeState) -> torch.Tensor:
        fixed = torch.full_like(logits, -torch.inf)
        for row, tokens in enumerate(state.generated):
            text = "".join({A: "a", B: "b", C: "c"}.get(token, ".") for token in tokens)
            for token, probability in self.rows.get(text, {END: 1.0}).items():
                fixed[row, token] = math.log(probability)
        return fixed


# P(a b .) = 0.6 * 0.4 * 0.55 = 0.132, P(a c .) = 0.6 * 0.35 * 1 = 0.21, P(b b .) = 0.4 * 0.9 * 1 = 0.36,
# P(a .) = 0.6 * 0.25 = 0.15, P(b .) = 0.4 * 0.1 = 0.04, P(a b a .) = 0.6 * 0.4 * 0.45 = 0.108.
TREE = {
    "": {A: 0.6, B: 0.4},
    "a": {B: 0.4, C: 0.35, END: 0.25},
    "b": {B: 0.9, END: 0.1},
    "ab": {END: 0.55, A: 0.45},
}


def found(model: Any, search: Beam, most: int = 6, tree: Any = TREE) -> list[Generation]:
    return generate(model, [[5]], search=search, processors=[Table(rows=tree)], max_new_tokens=most).generations


def texts(generations: list[Generation]) -> list[list[int]]:
    return [generation.token_ids for generation in generations]


def test_a_likely_text_behind_an_unlikely_token_is_found(lively: Any) -> None:
    """Greedy search takes a, b, end, of probability 0.132. Two hypotheses are enough for b, b, end with 0.36."""
    (greedy,) = generate(lively, [[5]], search=Greedy(), processors=[Table(rows=TREE)], max_new_tokens=6).generations
    assert greedy.token_ids == [A, B, END]
    (best,) = found(lively, Beam(width=2, length_penalty=0))
    assert best.token_ids == [B, B, END]
    assert best.score == pytest.approx(math.log(0.36), abs=1e-5)


def test_the_order_depends_on_the_length_penalty(lively: Any) -> None:
    """α = 0: 0.36, 0.21, 0.15, 0.132. α = 1, the mean of a token: ln 0.36 / 3 = -0.341, ln 0.21 / 3 = -0.520,

    ln 0.108 / 4 = -0.556, ln 0.132 / 3 = -0.675, ln 0.15 / 2 = -0.949. With 3 it is even more for the longest text:
    ln 0.36 / 27 = -0.0378, ln 0.108 / 64 = -0.0348.
    """
    every = {"width": 8, "num_return": 4}
    ranked = found(lively, Beam(length_penalty=0, **every))
    assert texts(ranked) == [[B, B, END], [A, C, END], [A, END], [A, B, END]]
    assert [g.sample for g in ranked] == [0, 1, 2, 3]
    expected = [math.log(p) for p in (0.36, 0.21, 0.15, 0.132)]
    assert [g.score for g in ranked] == pytest.approx(expected, abs=1e-5)
    ranked = found(lively, Beam(length_penalty=1, **every))
    assert texts(ranked) == [[B, B, END], [A, C, END], [A, B, A, END], [A, B, END]]
    expected = [math.log(0.36) / 3, math.log(0.21) / 3, math.log(0.108) / 4, math.log(0.132) / 3]
    assert [g.score for g in ranked] == pytest.approx(expected, abs=1e-5)
    assert texts(found(lively, Beam(length_penalty=3, **every)))[0] == [A, B, A, END]


# After one token the end has 0.55; what goes on gets surer and surer: 0.45 * 0.9 * 1 * 1.
LATE = {"": {A: 1.0}, "a": {END: 0.55, B: 0.45}, "ab": {C: 0.9, END: 0.1}, "abc": {C: 1.0}, "abcc": {END: 1.0}}


def test_early_stopping(lively: Any) -> None:
    """With one hypothesis "a." is finished after two tokens, with ln 0.55 / 2 = -0.299 in the mean.

    True: done. False: "ab" looks no better at its present length, ln 0.45 / 2 = -0.399. Never: with 6 tokens it could
    come to ln 0.45 / 6 = -0.133, and indeed a b c c end has ln 0.405 / 5 = -0.181.
    """
    one = {"width": 1, "length_penalty": 1.0}
    assert texts(found(lively, Beam(early_stopping=True, **one), tree=LATE)) == [[A, END]]
    assert texts(found(lively, Beam(early_stopping=False, **one), tree=LATE)) == [[A, END]]
    (best,) = found(lively, Beam(early_stopping="never", **one), tree=LATE)
    assert best.token_ids == [A, B, C, C, END]
    assert best.score == pytest.approx(math.log(0.405) / 5, abs=1e-5)


def test_logprobs_are_the_models_own_and_the_score_is_what_processors_made_of_them(lively: Any) -> None:
    (best,) = found(lively, Beam(width=2, length_penalty=0))
    with torch.no_grad():
        logits = lively.network(torch.tensor([[5, *best.token_ids]])).logits[0].double()
    own = logits.log_softmax(-1)[:-1].gather(1, torch.tensor(best.token_ids)[:, None])[:, 0]
    assert best.logprobs == pytest.approx(own.tolist(), abs=1e-4)
    (plain,) = generate(lively, [[5]], search=Beam(length_penalty=0.6), max_new_tokens=5).generations
    assert plain.score == pytest.approx(plain.logprob / len(plain.token_ids) ** 0.6, abs=1e-4)


def test_fewer_texts_than_asked_for_if_there_are_no_more(lively: Any) -> None:
    only = {"": {A: 0.7, B: 0.3}}  # a, end and b, end
    assert texts(found(lively, Beam(width=5, num_return=5), tree=only)) == [[A, END], [B, END]]


def test_stop_strings_end_hypotheses(lively: Any) -> None:
    """Every text must be over at the first t; the text before it is the same as without a stop, cut there."""
    free = generate(lively, PROMPTS, search=Beam(width=3), max_new_tokens=12).generations
    letter = next(c for g in free for c in g.text[1:] if c.isascii() and c.isalnum())
    heard: dict[int, str] = {}

    def listen(number: int, text: str) -> None:
        heard[number] = heard.get(number, "") + text

    search = Beam(width=3, num_return=2)
    stopped = generate(lively, PROMPTS, search=search, max_new_tokens=12, stop=[letter], on_text=listen).generations
    assert "stop" in [g.finish_reason for g in stopped]
    for number, generation in enumerate(stopped):
        assert letter not in generation.text
        assert heard.get(number, "") == generation.text
        assert (generation.finish_reason == "stop") == (letter in lively.tokenizer.decode(generation.token_ids))


def theirs(model: Any, prompt: list[int], search: Beam, most: int, **settings: Any) -> list[tuple[list[int], float]]:
    """What transformers returns for one prompt: tokens up to the first end, and scores."""
    ids = torch.tensor([prompt])
    output = model.network.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=most,
        do_sample=False,
        num_beams=search.width,
        length_penalty=search.length_penalty,
        early_stopping=search.early_stopping,
        num_return_sequences=search.num_return,
        pad_token_id=0,
        output_scores=True,
        return_dict_in_generate=True,
        **settings,
    )
    rows = [row[len(prompt) :] for row in output.sequences.tolist()]
    cut = [row[: row.index(END) + 1] if END in row else row for row in rows]
    return list(zip(cut, output.sequences_scores.tolist()))


def equal(model: Any, search: Beam, most: int, batch_size: int, processors: Any = (), **settings: Any) -> set[str]:
    """Check all prompts, in one batch or with some joining others in work; why the texts ended."""
    result = generate(
        model, PROMPTS, search=search, processors=processors, max_new_tokens=most, batch_size=batch_size
    ).generations
    expected = [pair for prompt in PROMPTS for pair in theirs(model, prompt, search, most, **settings)]
    assert texts(result) == [tokens for tokens, _ in expected]
    assert [g.score for g in result] == pytest.approx([score for _, score in expected], abs=1e-3)
    return {g.finish_reason for g in result}


@pytest.fixture
def ending(make_model: Any) -> Any:
    """A network that likes to end its texts."""
    model = make_model("llama")
    model.network.lm_head.bias = torch.nn.Parameter(torch.zeros(300))
    with torch.no_grad():
        model.network.lm_head.bias[END] = 1.0
    return model


@pytest.mark.parametrize("early_stopping", [False, True, "never"])
def test_equals_transformers_whatever_the_settings(ending: Any, early_stopping: Any) -> None:
    reasons = set()
    for width, length_penalty in product([2, 5], [0.0, 0.6, 2.0, -1.0]):
        settings = {"length_penalty": length_penalty, "early_stopping": early_stopping, "num_return": width - 1}
        reasons |= equal(ending, Beam(width=width, **settings), most=10, batch_size=2 if width == 5 else 8)
    assert reasons == {"eos", "length"}


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mistral", "qwen2", "bloom"])
def test_equals_transformers_whatever_the_architecture(make_model: Any, architecture: str) -> None:
    equal(make_model(architecture), Beam(width=4, num_return=4), most=16, batch_size=3)


@pytest.mark.parametrize(
    ("processors", "settings"),
    [
        ([NoRepeatNgram(n=2)], {"no_repeat_ngram_size": 2}),
        ([RepetitionPenalty(penalty=1.3)], {"repetition_penalty": 1.3}),
        (
            [RepetitionPenalty(penalty=1.1), NoRepeatNgram(n=3)],
            {"repetition_penalty": 1.1, "no_repeat_ngram_size": 3},
        ),
    ],
)
def test_equals_transformers_with_processors(ending: Any, lively: Any, processors: Any, settings: Any) -> None:
    for model in (ending, lively):
        equal(model, Beam(width=4, num_return=2), most=16, batch_size=4, processors=processors, **settings)


def test_width_one_is_greedy_search(lively: Any) -> None:
    greedy = texts(generate(lively, PROMPTS, search=Greedy(), max_new_tokens=12).generations)
    assert texts(generate(lively, PROMPTS, search=Beam(width=1), max_new_tokens=12).generations) == greedy


def test_one_step_for_all_hypotheses_of_all_prompts(lively: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five prompts of three hypotheses: the prompts in one pass, and then every step with 15 rows."""
    from posttrain.decode.engine import Engine

    rows: list[int] = []
    step = Engine.step
    monkeypatch.setattr(Engine, "step", lambda self, state, t: rows.append(state.rows) or step(self, state, t))
    generate(lively, PROMPTS, search=Beam(width=3), max_new_tokens=6, ignore_eos=True)
    assert rows == [15] * 5


@pytest.mark.parametrize("settings", [{"width": 0}, {"width": 2, "num_return": 3}, {"early_stopping": "often"}])
def test_refuses(settings: Any) -> None:
    with pytest.raises(ValidationError):
        Beam(**settings)


@pytest.mark.real_model
def test_equals_transformers_on_a_real_model(smollm2: Any) -> None:
    texts_given = ["The capital of France is", "Once upon a time, in a village by the sea, there lived", "2, 4, 6, 8,"]
    prompts = [smollm2.tokenizer(text)["input_ids"] for text in texts_given]
    search = Beam(width=4)
    expected = [theirs(smollm2, prompt, search, 12)[0][0] for prompt in prompts]
    assert texts(generate(smollm2, texts_given, search=search, max_new_tokens=12).generations) == expected
