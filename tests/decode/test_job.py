"""A job's scheduling and bookkeeping, on an engine of integers: what runs, with which rows, in which order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from posttrain.core.errors import Failure
from posttrain.core.events import Task
from posttrain.decode.engine import Output
from posttrain.decode.job import Continuation, Job, _without_ended
from posttrain.decode.processors import DecodeState, LogitsProcessor
from posttrain.decode.sequence import Ending, Generated

WORDS = 8
END = 0


class Rows:
    """Remembers the tokens of each row, as a state remembers their keys."""

    def __init__(self) -> None:
        self.held: list[list[int]] = []

    @property
    def rows(self) -> int:
        return len(self.held)

    def select(self, rows: list[int]) -> None:
        self.held = [list(self.held[row]) for row in rows]


class Countdown:
    """A model that after token n says n - 1, and so ends a prompt [n] after n tokens; a log of its passes."""

    def __init__(self, joins: bool = True) -> None:
        self.joins = joins
        self.passes: list[str] = []
        self.model: Any = type("Model", (), {"tokenizer": None})

    def prefill(
        self, prompts: Sequence[list[int]], state: Rows | None = None, prompt_hidden: bool = False
    ) -> tuple[Rows, Output]:
        state = state or Rows()
        assert self.joins or not state.held
        state.held += [list(prompt) for prompt in prompts]
        self.passes.append(f"prefill {[prompt[-1] for prompt in prompts]}")
        output = self._output([prompt[-1] for prompt in prompts])
        whole = tuple(torch.tensor([[float(token)] for token in prompt]) for prompt in prompts)
        return state, output._replace(prompt_hidden=whole if prompt_hidden else None)

    def step(self, state: Rows, tokens: Sequence[int]) -> Output:
        assert len(tokens) == state.rows
        for row, token in zip(state.held, tokens):
            assert row[-1] == token + 1, "the tokens were handed to the wrong rows"
            row.append(token)
        self.passes.append(f"step {list(tokens)}")
        return self._output(tokens)

    def _output(self, last: Sequence[int]) -> Output:
        logits = torch.zeros(len(last), WORDS)  # e^2 for the next word, e^0 for the 7 others
        logits[range(len(last)), [token - 1 for token in last]] = 2.0
        return Output(logits, torch.zeros(len(last), 1))


def job(engine: Any, starts: Sequence[int], batch_size: int = 16, max_new_tokens: int = 10, **more: Any) -> Job:
    given = {"processors": [], "seed": 0, "task": Task("Generate", None, "tokens"), **more}
    ending = Ending(max_new_tokens, eos_ids=frozenset({END}))
    return Job(engine, [[start] for start in starts], ending=ending, batch_size=batch_size, **given)


def most_probable(logits: torch.Tensor, rows: Sequence[Generated]) -> torch.Tensor:
    return logits.argmax(-1)


def test_rows_take_over_the_places_of_those_that_ended() -> None:
    """Prompts of 1, 3, 2 and 2 tokens to go, two places: the third enters when the first has ended, and so on."""
    engine = Countdown()
    ended = job(engine, [1, 3, 2, 2], batch_size=2).token_by_token(most_probable)
    assert engine.passes == [
        "prefill [1, 3]",  # the first says 0 and ends, the second 2
        "prefill [2]",  # the third says 1
        "step [2, 1]",  # the second says 1, the third 0 and ends
        "prefill [2]",  # the fourth says 1
        "step [1, 1]",  # both say 0
    ]
    assert [(row.prompt_index, row.tokens) for row in ended] == [(0, [0]), (2, [1, 0]), (1, [2, 1, 0]), (3, [1, 0])]


def test_without_joining_a_batch_runs_to_its_end() -> None:
    engine = Countdown(joins=False)
    ended = job(engine, [1, 3, 2], batch_size=2).token_by_token(most_probable)
    assert engine.passes == ["prefill [1, 3]", "step [2]", "step [1]", "prefill [2]", "step [1]"]
    assert sorted(row.prompt_index for row in ended) == [0, 1, 2]


def test_few_free_places_wait_for_company() -> None:
    """Of eight places two must be free: one prefill for two rows is cheaper than two."""
    engine = Countdown()
    job(engine, [1, 2, 7, 7, 7, 7, 7, 7, 5, 5], batch_size=8).token_by_token(most_probable)
    assert engine.passes[:3] == [
        "prefill [1, 2, 7]",  # equal prompts are read once; one ends; one free place is too few
        "step [6, 1, 6, 6, 6, 6, 6]",  # the last row has filled the gap of the first; the row of 1 ends
        "prefill [5]",
    ]


def test_samples_of_a_prompt_share_its_prefill() -> None:
    engine = Countdown()
    ended = job(engine, [2, 1], batch_size=3).token_by_token(most_probable, samples=2)
    # Four sequences, three places: both samples of the first prompt and one of the second.
    assert engine.passes == ["prefill [2, 1]", "prefill [1]", "step [1, 1]"]
    assert [(row.prompt_index, row.sample) for row in ended] == [(1, 0), (1, 1), (0, 0), (0, 1)]


class Pair:
    """A sequence of two rows: the first says what the model says, the second always 7."""

    def __init__(self, prompt_index: int) -> None:
        self.prompt_index, self.length = prompt_index, 0


def test_several_rows_a_sequence() -> None:
    """Both rows go on from the first, so that the second one's 7 is never built upon."""
    engine = Countdown()
    shapes = []

    def advance(pairs: Sequence[Pair], output: Output) -> list[Continuation | None]:
        shapes.append((len(pairs), len(output.logits), output.prompt_hidden is None))
        words = output.logits.argmax(-1)[::2].tolist()
        for pair in pairs:
            pair.length += 1
        return [None if word == END else Continuation([0, 0], [word, word]) for word in words]

    task = Task("Generate", None, "tokens")
    pairs = [Pair(index) for index in range(3)]
    work = job(engine, [1, 3, 2], batch_size=2, max_new_tokens=4, task=task)
    assert [pair.prompt_index for pair in work.drive(pairs, advance, 2, prompt_hidden=True)] == [0, 2, 1]
    assert engine.passes == ["prefill [1, 3]", "prefill [2]", "step [2, 2, 1, 1]", "step [1, 1]"]
    assert shapes == [(2, 4, False), (1, 2, False), (2, 4, True), (1, 2, True)]
    assert task.total == task.done == 1 + 3 + 2


def test_rows_go_on_from_the_row_that_is_named() -> None:
    """Rows say 5 and 4 after a common 6; then both go on from the second."""
    engine = Countdown()
    work = job(engine, [7])
    pair = Pair(0)
    held = []

    def advance(pairs: Sequence[Pair], output: Output) -> list[Continuation | None]:
        pair.length += 1
        if pair.length == 1:
            return [Continuation([1, 0], [6, 6])]
        held.append(output.logits.argmax(-1).tolist())
        return [None if pair.length == 3 else Continuation([1, 1], [5, 5])]

    assert list(work.drive([pair], advance, 2)) == [pair]
    assert held == [[5, 5], [4, 4]]


def test_a_question_is_what_was_given_or_its_tokens_as_text(tiny_llama: Any) -> None:
    messages = [{"role": "user", "content": "Who?"}]
    tokens = tiny_llama.tokenizer("<|im_start|>The dog")["input_ids"]
    engine = type("Engine", (), {"model": tiny_llama})
    work = Job(engine, [tokens] * 3, [], Ending(4), 1, 0, Task("", None, ""), given=["The dog", messages, tokens])
    assert [work.question(index) for index in range(3)] == ["The dog", messages, "<|im_start|>The dog"]
    bare = Job(engine, [tokens], [], Ending(4), 1, 0, Task("", None, ""))
    assert bare.question(0) == "<|im_start|>The dog"


def test_retold_under_another_number(tiny_llama: Any) -> None:
    told: list[tuple[int, str]] = []
    engine = type("Engine", (), {"model": tiny_llama})
    more: Any = {"listener": lambda number, text: told.append((number, text))}
    work = Job(engine, [[5], [6]], [], Ending(9, eos_ids=frozenset({2})), 1, 0, Task("", None, ""), **more)
    silent = Generated(7, 0, [6], work.ending, tiny_llama.tokenizer)
    for token in [*tiny_llama.tokenizer("fox")["input_ids"], 2]:
        silent.append(token, -0.5)
    again = work.retold(silent, 1, 2, 3, score=1.5)
    assert (again.prompt_index, again.sample, again.score, again.finish_reason) == (1, 2, 1.5, "eos")
    assert (again.tokens, again.logprobs, again.text) == (silent.tokens, silent.logprobs, "fox")
    assert {number for number, _ in told} == {5}
    assert "".join(text for _, text in told) == "fox"


def test_no_prompts() -> None:
    engine = Countdown()
    assert job(engine, []).token_by_token(most_probable) == []
    assert engine.passes == []


def test_progress_is_promised_at_most_and_corrected_at_each_end() -> None:
    task = Task("Generate", None, "tokens")
    totals: list[float | None] = []

    def choose(logits: torch.Tensor, rows: Sequence[Generated]) -> torch.Tensor:
        totals.append(task.total)
        return logits.argmax(-1)

    job(Countdown(), [1, 3, 6], max_new_tokens=4, task=task).token_by_token(choose)
    # 3 x 4; the first ends after 1 of 4, the second after 3 of 4, the third is cut off after 4.
    assert totals == [12, 9, 9, 8]
    assert task.total == task.done == 1 + 3 + 4


def test_ended_by_length() -> None:
    (row,) = job(Countdown(), [7], max_new_tokens=2).token_by_token(most_probable)
    assert (row.tokens, row.finish_reason) == ([6, 5], "length")


class Forbid(LogitsProcessor):
    """Takes the likeliest word away from rows whose prompt is the given one, and writes down what it was shown."""

    prompt: list[int]
    seen: list[Any]

    def __call__(self, logits: torch.Tensor, state: DecodeState) -> torch.Tensor:
        self.seen.append((state.prompts, [list(tokens) for tokens in state.generated]))
        assert (state.eos_ids, state.max_new_tokens) == (frozenset({END}), 2)
        out = logits.clone()
        for row, prompt in enumerate(state.prompts):
            if prompt == self.prompt:
                out[row, logits[row].argmax()] = -torch.inf
        return out


def test_processors_see_their_rows_in_order_and_never_change_the_logprobs() -> None:
    """Log-probability of the word with score 2 among eight: 2 - ln(e^2 + 7); of any other: -ln(e^2 + 7)."""
    rows = job(Countdown(), [5, 4], max_new_tokens=1).token_by_token(most_probable)
    total = math.log(math.exp(2) + 7)
    assert [row.logprobs for row in rows] == [pytest.approx([2 - total])] * 2
    forbid = Forbid(prompt=[5], seen=[])
    chosen: list[torch.Tensor] = []

    def choose(logits: torch.Tensor, rows: Sequence[Generated]) -> torch.Tensor:
        chosen.append(logits)
        return torch.tensor([7, 3])

    work = job(Countdown(), [5, 4], max_new_tokens=2, processors=[forbid])
    fresh = [work.sequence(0), work.sequence(1)]
    _, output = work.engine.prefill([[5], [4]])
    work._advance(fresh, output.logits, choose)
    assert forbid.seen == [([[5], [4]], [[], []])]
    assert chosen[0][0, 4] == -math.inf  # forbidden when the choice was made
    assert chosen[0][1, 3] == 2.0
    assert [row.logprobs for row in fresh] == [pytest.approx([-total]), pytest.approx([2 - total])]


def test_processors_are_applied_in_the_written_order() -> None:
    class Add(LogitsProcessor):
        amount: float

        def __call__(self, logits: torch.Tensor, state: DecodeState) -> torch.Tensor:
            return logits + self.amount

    class Double(LogitsProcessor):
        def __call__(self, logits: torch.Tensor, state: DecodeState) -> torch.Tensor:
            return 2 * logits

    work = job(Countdown(), [5], processors=[Add(amount=1), Double()])
    rows = [work.sequence(0)]
    scores = torch.tensor([[1.0, 2.0]])
    assert work.process(scores, rows).tolist() == [[4.0, 6.0]]
    assert work.process(scores, rows, [Double(), Add(amount=1)]).tolist() == [[3.0, 5.0]]
    assert work.process(scores, rows, []).tolist() == [[1.0, 2.0]]  # none, not the job's
    assert scores.tolist() == [[1.0, 2.0]]


def test_normalizers() -> None:
    """ln(e^ln 1 + e^ln 3) = ln 4; a forbidden word adds nothing; large scores don't overflow."""
    scores = torch.tensor([[0.0, math.log(3), -math.inf], [500.0, 500.0, -math.inf]])
    expected = [math.log(4), 500 + math.log(2)]
    assert job(Countdown(), []).normalizers(scores).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_scores_that_are_not_numbers_are_refused(bad: float) -> None:
    with pytest.raises(Failure, match="not numbers"):
        job(Countdown(), []).normalizers(torch.tensor([[0.0, 1.0], [bad, 1.0]]))


def test_nothing_but_forbidden_words_is_refused() -> None:
    with pytest.raises(Failure, match="not numbers"):
        job(Countdown(), []).normalizers(torch.full((1, 3), -math.inf))


def test_a_listener_is_told_the_number_of_the_sequence() -> None:
    told: list[tuple[int, str]] = []
    work = job(Countdown(), [5, 4, 3], listener=lambda number, text: told.append((number, text)))
    for index, sample, samples in [(0, 0, 1), (2, 0, 1), (0, 1, 4), (2, 3, 4)]:
        listener = work.sequence(index, sample, samples).listener
        assert listener is not None
        listener("x")
    assert told == [(0, "x"), (2, "x"), (1, "x"), (11, "x")]
    assert job(Countdown(), [5]).sequence(0).listener is None


@pytest.mark.parametrize(
    ("ended", "places"),
    [
        ("", [0, 1, 2, 3, 4]),
        ("4", [0, 1, 2, 3]),
        ("0", [4, 1, 2, 3]),
        ("03", [4, 1, 2]),  # 4 fills the gap of 0; 3 would have moved, but has ended
        ("01", [3, 4, 2]),
        ("0124", [3]),
        ("01234", []),
    ],
)
def test_gaps_are_filled_from_the_end(ended: str, places: list[int]) -> None:
    assert _without_ended([str(place) not in ended for place in range(5)]) == places
