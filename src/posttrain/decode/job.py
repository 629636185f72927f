"""A generation job: what a search is given, and the loop that searches share, with one row a sequence or several."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

import torch

from posttrain.core.errors import Failure
from posttrain.core.events import Task
from posttrain.decode.engine import Engine, Output
from posttrain.decode.processors import DecodeState, LogitsProcessor
from posttrain.decode.sequence import Ending, Generated, Prompt, Question
from posttrain.decode.state import State

Choose = Callable[[torch.Tensor, Sequence[Generated]], torch.Tensor]


class InWork(Protocol):
    """Whatever a search keeps of a sequence in work: a `Generated`, or several hypotheses of which one will be it.

    Attributes:
        prompt_index: Which prompt it continues.
    """

    prompt_index: int

    @property
    def length(self) -> int:
        """How many new tokens it has."""


class Continuation(NamedTuple):
    """How a sequence goes on: its row i becomes what its row ``rows[i]`` was, and gets ``tokens[i]``."""

    rows: Sequence[int]
    tokens: Sequence[int]


S = TypeVar("S", bound=InWork)
Advance = Callable[[Sequence[S], Output], Sequence[Continuation | None]]


@dataclass
class Job:
    """Prompts to continue.

    Attributes:
        engine: Runs the model; already `running`.
        prompts: Token ids of each prompt.
        processors: Applied to the model's scores, in order, before the search's own.
        ending: When a sequence ends.
        batch_size: Most sequences in work at a time; one that a search keeps several rows for counts once.
        seed: Of the random draws.
        task: Progress, in tokens.
        listener: Called with the number of a sequence (its prompt's if there is one sample each) and its new text.
        given: The prompts as they were given, if they were.
    """

    engine: Engine
    prompts: Sequence[list[int]]
    processors: Sequence[LogitsProcessor]
    ending: Ending
    batch_size: int
    seed: int
    task: Task
    listener: Callable[[int, str], None] | None = None
    given: Sequence[Prompt] = ()

    def question(self, prompt_index: int) -> Question:
        """A prompt as text or as messages: as it was given, or else its tokens decoded."""
        given = self.given[prompt_index] if self.given else self.prompts[prompt_index]
        if isinstance(given, str) or (given and isinstance(given[0], dict)):
            return given  # type: ignore[return-value]
        text = self.engine.model.tokenizer.decode(self.prompts[prompt_index], clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text

    def sequence(self, prompt_index: int, sample: int = 0, samples: int = 1) -> Generated:
        """A new sequence that continues a prompt.

        Args:
            prompt_index: Which prompt.
            sample: Which of its continuations.
            samples: How many there are.
        """
        number = prompt_index * samples + sample
        listener = self.listener
        return Generated(
            prompt_index=prompt_index,
            sample=sample,
            prompt=self.prompts[prompt_index],
            ending=self.ending,
            tokenizer=self.engine.model.tokenizer,
            seed=self.seed,
            listener=None if listener is None else lambda text: listener(number, text),
        )

    def retold(self, sequence: Generated, prompt_index: int, sample: int, samples: int, score: float) -> Generated:
        """A sequence that was made without a listener or under another number, as one of this job's.

        Args:
            sequence: What it consists of.
            prompt_index: Which prompt.
            sample: Which of its continuations.
            samples: How many there are.
            score: What it was ranked by.
        """
        told = self.sequence(prompt_index, sample, samples)
        told.score = score
        for token, logprob in zip(sequence.tokens, sequence.logprobs):
            told.append(token, logprob)
        return told

    def process(
        self, logits: torch.Tensor, rows: Sequence[Generated], processors: Sequence[LogitsProcessor] | None = None
    ) -> torch.Tensor:
        """Scores [B, V] after processors: the given ones, or the job's."""
        chain = self.processors if processors is None else processors
        if chain:
            state = DecodeState(
                prompts=[row.prompt for row in rows],
                generated=[row.tokens for row in rows],
                eos_ids=self.ending.eos_ids,
                max_new_tokens=self.ending.max_new_tokens,
                tokenizer=self.engine.model.tokenizer,
            )
            for processor in chain:
                logits = processor(logits, state)
        return logits

    def normalizers(self, logits: torch.Tensor) -> torch.Tensor:
        """log Σ exp of scores, [B]; subtracting it turns scores into log-probabilities.

        Raises:
            Failure: If the scores hold NaN or +inf, or nothing but -inf.
        """
        total = logits.logsumexp(-1)
        if not all(map(math.isfinite, total.flatten().tolist())):
            raise Failure(
                "The model's scores are not numbers (NaN or infinite), so no token can be chosen.",
                "Load it in float32, or check the training or quantization that made it.",
            )
        return total

    def token_by_token(self, choose: Choose, samples: int = 1) -> list[Generated]:
        """Continue every prompt with one row a sequence, rows taking over the places of those that have ended.

        Args:
            choose: Takes scores [B, V] after the job's processors and the B sequences; returns the next tokens, [B].
            samples: Sequences for each prompt.
        """
        sequences = [
            self.sequence(index, sample, samples) for index in range(len(self.prompts)) for sample in range(samples)
        ]

        def advance(rows: Sequence[Generated], output: Output) -> list[Continuation | None]:
            self._advance(rows, output.logits, choose)
            return [None if row.finish_reason else Continuation([0], row.tokens[-1:]) for row in rows]

        return list(self.drive(sequences, advance))

    def drive(
        self, sequences: Sequence[S], advance: Advance[S], width: int = 1, prompt_hidden: bool = False
    ) -> Iterator[S]:
        """Continue sequences in one batch, new ones taking over the places of those that have ended.

        Args:
            sequences: What is to be continued, none of them begun.
            advance: Takes sequences and what the engine says about their rows, `width` rows each in a line, and returns
                for each how it goes on, None where it has ended. After its prompt all rows of a sequence are alike.
            width: Rows of each sequence.
            prompt_hidden: Give the output after a prompt the hidden states of all of the prompt's tokens.

        Yields:
            Sequences that have ended, in the order in which they do.
        """
        waiting = deque(sequences)
        self.task.total = len(waiting) * self.ending.max_new_tokens
        going: list[S] = []
        tokens: list[int] = []  # the next token of each row
        state: State | None = None
        while waiting or going:
            if waiting and self._admits(len(going)):
                fresh = [waiting.popleft() for _ in range(min(len(waiting), self.batch_size - len(going)))]
                first = len(going)
                state, output = self._prefill(fresh, state, width, prompt_hidden)
                going = going + fresh
                tokens += [0] * (len(fresh) * width)
            else:
                assert state is not None
                first, fresh = 0, going
                output = self.engine.step(state, tokens)
            before = sum(sequence.length for sequence in fresh)
            continuations = advance(fresh, output)
            rows = list(range(len(tokens)))
            for place, continuation in enumerate(continuations, first):
                if continuation is None:
                    self.task.total -= self.ending.max_new_tokens - going[place].length
                else:
                    here = slice(place * width, (place + 1) * width)
                    rows[here] = [place * width + row for row in continuation.rows]
                    tokens[here] = continuation.tokens
            self.task.advance(sum(sequence.length for sequence in fresh) - before)
            goes_on = [True] * first + [continuation is not None for continuation in continuations]
            yield from (going[place] for place, on in enumerate(goes_on) if not on)
            kept = _without_ended(goes_on)
            going = [going[place] for place in kept]
            places = [place * width + each for place in kept for each in range(width)]
            tokens = [tokens[place] for place in places]
            if not going:
                state = None
            elif (chosen := [rows[place] for place in places]) != list(range(len(rows))):
                state.select(chosen)

    def _admits(self, sequences: int) -> bool:
        """Whether to let new ones in now: one prefill for several is cheaper than one for each."""
        return sequences == 0 or (self.engine.joins and self.batch_size - sequences >= max(1, self.batch_size // 4))

    def _prefill(
        self, fresh: Sequence[InWork], state: State | None, width: int, prompt_hidden: bool
    ) -> tuple[State, Output]:
        """Run the prompts of new sequences, each prompt once, and give each sequence its rows."""
        prompts = [tuple(self.prompts[sequence.prompt_index]) for sequence in fresh]
        order = {prompt: place for place, prompt in enumerate(dict.fromkeys(prompts))}
        before = 0 if state is None else state.rows
        state, output = self.engine.prefill([list(prompt) for prompt in order], state, prompt_hidden)
        places = [order[prompt] for prompt in prompts for _ in range(width)]
        if len(places) > len(order):
            state.select([*range(before), *(before + place for place in places)])
            output = output.select(places)
        return state, output

    def _advance(self, rows: Sequence[Generated], logits: torch.Tensor, choose: Choose) -> None:
        """Choose the next token of each row and append it."""
        normalizers = self.normalizers(logits)
        tokens = choose(self.process(logits, rows), rows)
        logprobs = logits.gather(-1, tokens[:, None]).squeeze(-1) - normalizers
        for row, token, logprob in zip(rows, tokens.tolist(), logprobs.tolist()):
            row.append(token, logprob)


def _without_ended(going: list[bool]) -> list[int]:
    """Places of those that go on, those at the end filling the gaps, so that few rows move."""
    count = sum(going)
    movers = iter([place for place in range(count, len(going)) if going[place]])
    return [place if going[place] else next(movers) for place in range(count)]
