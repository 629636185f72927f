"""Beam search: keep the few likeliest hypotheses of each prompt, and return those with the best score for their length.

The score of a hypothesis Y is log P(Y) / |Y|^α (Graves, 2012, "Sequence Transduction with Recurrent Neural Networks",
for the search; Wu et al., 2016, "Google's Neural Machine Translation System", section 7, for the division by a power of
the length). As in transformers, whose results it gives token by token, |Y| is the number of new tokens with the one
that ends the text, processors are given log-probabilities, and what they make of these is summed up as it is. A
hypothesis is finished if it ends while among the `width` best; the search of a prompt stops when it has `width`
finished ones and, depending on `early_stopping`, none in work can surpass the worst of them.

Left out: diverse and constrained beams, and drawing the beams at random.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from posttrain.decode.job import Continuation
from posttrain.decode.search import Search
from posttrain.decode.sequence import Generated

if TYPE_CHECKING:
    from typing import Self

    from posttrain.decode.engine import Output
    from posttrain.decode.job import Job


class Beam(Search):
    """The best continuations of each prompt among many that are followed at once."""

    width: int = Field(4, ge=1)
    """Hypotheses followed at once for each prompt; 1 is greedy search."""

    length_penalty: float = Field(1.0, allow_inf_nan=False)
    """α: log-probabilities are divided by length^α; 0 ranks by probability alone, more favours longer texts."""

    early_stopping: bool | Literal["never"] = False
    """When a prompt with `width` finished texts is done: true at once; false if no text in work looks better at its
    present length; never only if none can become better at all."""

    num_return: int = Field(1, ge=1)
    """How many of the best texts to return for each prompt, at most `width`."""

    @model_validator(mode="after")
    def _no_more_than_there_are(self) -> Self:
        if self.num_return > self.width:
            raise ValueError(f"num_return {self.num_return} is more than the width {self.width}")
        return self

    @property
    def continuations(self) -> int:
        return self.num_return

    def run(self, job: Job) -> list[Generated]:
        endings = len(job.ending.eos_ids | job.ending.stop_ids)
        candidates = max(2, 1 + endings) * self.width  # so many that `width` of them go on, whichever tokens end a text

        def advance(beams: Sequence[_Beam], output: Output) -> list[Continuation | None]:
            rows = [each.sequence for beam in beams for each in beam.running]
            logprobs = output.logits - job.normalizers(output.logits)[:, None]  # [B * width, V]
            before = logprobs.new_tensor([each.score for beam in beams for each in beam.running])
            scores = (job.process(logprobs, rows) + before[:, None]).view(len(beams), -1)  # [B, width * V]
            best = scores.topk(min(candidates, scores.shape[1]))
            own = logprobs.view(len(beams), -1).gather(1, best.indices)
            words = logprobs.shape[1]
            columns = (best.values, best.indices // words, best.indices % words, own)  # [B, candidates] each
            return [
                self._extend(beam, [_Candidate(*each) for each in zip(*found)])
                for beam, *found in zip(beams, *(column.tolist() for column in columns))
            ]

        prompts = [_Beam(index, self._first(job, index)) for index in range(len(job.prompts))]
        return [
            job.retold(each.sequence, beam.prompt_index, sample, self.num_return, each.score)
            for beam in job.drive(prompts, advance, self.width)
            for sample, each in enumerate(beam.finished[: self.num_return])
        ]

    def _first(self, job: Job, prompt_index: int) -> list[_Hypothesis]:
        """The empty hypothesis, and nothing in the other places, which would only find the same."""
        sequence = job.sequence(prompt_index).fork()
        return [_Hypothesis(sequence, 0.0), *[_Hypothesis(sequence, -math.inf)] * (self.width - 1)]

    def _extend(self, beam: _Beam, candidates: list[_Candidate]) -> Continuation | None:
        """Take the best candidates into a beam; how its rows go on, or None if it is done."""
        going: list[tuple[_Hypothesis, _Candidate]] = []
        for rank, candidate in enumerate(candidates):
            if candidate.score == -math.inf or (len(going) == self.width and rank >= self.width):
                break
            sequence = beam.running[candidate.row].sequence.fork()
            sequence.append(candidate.token, candidate.logprob)
            if sequence.finish_reason is None:
                if len(going) < self.width:
                    going.append((_Hypothesis(sequence, candidate.score), candidate))
            elif rank < self.width:
                beam.finished.append(_Hypothesis(sequence, self._normalized(candidate.score, sequence.length)))
        beam.length += 1
        beam.finished.sort(key=lambda each: -each.score)  # stable: the earlier of equals stays before the later
        del beam.finished[self.width :]
        if not going or self._is_done(beam, going[0][0].score):
            return None
        going = _in_place(going, self.width)
        beam.running = [hypothesis for hypothesis, _ in going]
        return Continuation([each.row for _, each in going], [each.token for _, each in going])

    def _is_done(self, beam: _Beam, best: float) -> bool:
        """Whether no hypothesis in work, `best` being the highest score among them, may still enter the finished."""
        if len(beam.finished) < self.width:
            return False
        if self.early_stopping is True:
            return True
        length = beam.length
        if self.early_stopping == "never" and self.length_penalty > 0:  # then the longest text has the least loss
            length = beam.running[0].sequence.ending.max_new_tokens
        return self._normalized(best, length) <= beam.finished[-1].score

    def _normalized(self, score: float, length: int) -> float:
        return score / length**self.length_penalty


@dataclass
class _Hypothesis:
    """A text in work with the sum of its processed log-probabilities, or a finished one with its normalised score."""

    sequence: Generated
    score: float


@dataclass
class _Candidate:
    """A token that could follow the hypothesis in a row: their score together, and the token's own log-probability."""

    score: float
    row: int
    token: int
    logprob: float


@dataclass
class _Beam:
    """The hypotheses of one prompt: those in work, one a row in any order, and the finished ones, best first."""

    prompt_index: int
    running: list[_Hypothesis]
    finished: list[_Hypothesis] = field(default_factory=list)
    length: int = 0


def _in_place(going: list[tuple[_Hypothesis, _Candidate]], width: int) -> list[tuple[_Hypothesis, _Candidate]]:
    """One hypothesis for each row: whatever goes on from a row stays in it, once; free rows get what is left.

    If fewer than `width` go on, rows without one get a hypothesis of probability 0.
    """
    places: list[tuple[_Hypothesis, _Candidate] | None] = [None] * width
    left = []
    for each in going:
        row = each[1].row
        if places[row] is None:
            places[row] = each
        else:
            left.append(each)
    nothing = (_Hypothesis(going[0][0].sequence, -math.inf), going[0][1])
    movers = iter(left)
    return [next(movers, nothing) if each is None else each for each in places]
