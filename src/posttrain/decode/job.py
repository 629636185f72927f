"""A generation job: what a search is given, and the loop that searches with one row a sequence share."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from posttrain.core.errors import Failure
from posttrain.core.events import Task
from posttrain.decode.engine import Engine, Output
from posttrain.decode.processors import DecodeState, LogitsProcessor
from posttrain.decode.sequence import Ending, Generated
from posttrain.decode.state import State

Choose = Callable[[torch.Tensor, Sequence[Generated]], torch.Tensor]


@dataclass
class Job:
    """Prompts to continue.

    Attributes:
        engine: Runs the model; already `running`.
        prompts: Token ids of each prompt.
        processors: Applied to the model's scores, in order, before the search's own.
        ending: When a sequence ends.
        batch_size: Most rows in work at a time.
        seed: Of the random draws.
        task: Progress, in tokens.
        listener: Called with the number of a sequence (its prompt's if there is one sample each) and its new text.
    """

    engine: Engine
    prompts: Sequence[list[int]]
    processors: Sequence[LogitsProcessor]
    ending: Ending
    batch_size: int
    seed: int
    task: Task
    listener: Callable[[int, str], None] | None = None

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
        waiting = deque(
            self.sequence(index, sample, samples) for index in range(len(self.prompts)) for sample in range(samples)
        )
        self.task.total = len(waiting) * self.ending.max_new_tokens
        rows: list[Generated] = []
        ended: list[Generated] = []
        state: State | None = None
        while waiting or rows:
            if waiting and self._admits(len(rows)):
                fresh = [waiting.popleft() for _ in range(min(len(waiting), self.batch_size - len(rows)))]
                state, output = self._prefill(fresh, state)
                rows = rows + fresh
            else:
                assert state is not None
                fresh = rows
                output = self.engine.step(state, [row.tokens[-1] for row in rows])
            self._advance(fresh, output.logits, choose)
            ended += [row for row in fresh if row.finish_reason]
            kept = _without_ended(rows)
            if len(kept) < len(rows):
                rows = [rows[i] for i in kept]
                if rows:
                    state.select(kept)
                else:
                    state = None
        return ended

    def _admits(self, rows: int) -> bool:
        """Whether to let new rows in now: one prefill for several rows is cheaper than one for each."""
        return rows == 0 or (self.engine.joins and self.batch_size - rows >= max(1, self.batch_size // 4))

    def _prefill(self, fresh: list[Generated], state: State | None) -> tuple[State, Output]:
        """Run the prompts of new sequences, each prompt once."""
        order = {index: place for place, index in enumerate(dict.fromkeys(row.prompt_index for row in fresh))}
        before = 0 if state is None else state.rows
        state, output = self.engine.prefill([self.prompts[index] for index in order], state)
        if len(order) < len(fresh):
            places = [order[row.prompt_index] for row in fresh]
            state.select([*range(before), *(before + place for place in places)])
            output = output.select(places)
        return state, output

    def _advance(self, rows: list[Generated], logits: torch.Tensor, choose: Choose) -> None:
        """Choose the next token of each row and append it."""
        normalizers = self.normalizers(logits)
        tokens = choose(self.process(logits, rows), rows)
        logprobs = logits.gather(-1, tokens[:, None]).squeeze(-1) - normalizers
        for row, token, logprob in zip(rows, tokens.tolist(), logprobs.tolist()):
            row.append(token, logprob)
            if row.finish_reason and self.task.total is not None:
                self.task.total -= self.ending.max_new_tokens - len(row.tokens)
        self.task.advance(len(rows))


def _without_ended(rows: list[Generated]) -> list[int]:
    """Places of the rows that go on, those at the end filling the gaps, so that few rows move."""
    going = [row.finish_reason is None for row in rows]
    count = sum(going)
    movers = iter([place for place in range(count, len(rows)) if going[place]])
    return [place if going[place] else next(movers) for place in range(count)]
