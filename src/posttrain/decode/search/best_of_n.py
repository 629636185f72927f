"""Best of n: draw several answers to each prompt, score them all, and return the best.

With a reward model it is best-of-n sampling (Stiennon et al., 2020, "Learning to Summarize from Human Feedback"), with
a vote on the answers self-consistency (Wang et al., 2023), with another language model reranking. How answers are drawn
and how they are scored are settings; both are methods of their own.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, model_validator

from posttrain.core.catalog import block
from posttrain.core.errors import Failure
from posttrain.decode.search import Search

if TYPE_CHECKING:
    from posttrain.decode.job import Job
    from posttrain.decode.sequence import Generated


class BestOfN(Search):
    """The best by some standard of several answers to each prompt."""

    n: int = Field(8, ge=1)
    """How often the search is run for each prompt; each of its answers is a candidate."""

    search: block("search") = Field(default_factory=lambda: {"sampling": {}})  # type: ignore[valid-type]
    """How answers are drawn, as in {sampling: {temperature: 0.8}}."""

    reranker: block("reranker") = Field(default_factory=lambda: {"likelihood": {}})  # type: ignore[valid-type]
    """How they are scored, as in {reward: {model: runs/reward}}."""

    num_return: int = Field(1, ge=1)
    """How many of the best answers to return for each prompt."""

    @model_validator(mode="after")
    def _no_more_than_there_are(self) -> Self:
        drawn = self.n * self.search.continuations
        if self.num_return > drawn:
            raise ValueError(f"num_return {self.num_return} is more than the {drawn} answers that are drawn")
        return self

    def inputs(self) -> dict[str, Any]:
        return {"search": self.search.inputs(), "reranker": self.reranker.inputs()}

    @property
    def continuations(self) -> int:
        return self.num_return

    def run(self, job: Job) -> list[Generated]:
        judge = self.reranker.judge(job.engine.model)
        draws = replace(
            job,
            prompts=[prompt for prompt in job.prompts for _ in range(self.n)],
            given=[prompt for prompt in job.given for _ in range(self.n)],
            listener=None,
        )
        drawn: list[list[Generated]] = [[] for _ in job.prompts]
        # The order in which sequences end depends on the batch; that of equals among the answers must not.
        for sequence in sorted(self.search.run(draws), key=lambda each: (each.prompt_index, each.sample)):
            drawn[sequence.prompt_index // self.n].append(sequence)
        judge.network.eval()
        best = []
        for index, answers in enumerate(drawn):
            scores = self.reranker.scores(judge, job.question(index), answers)
            if any(math.isnan(score) for score in scores):
                raise Failure("A score of an answer is not a number.", "Check the model that scores, or its data type.")
            ranked = sorted(range(len(answers)), key=lambda each: -scores[each])
            for sample, each in enumerate(ranked[: self.continuations]):
                best.append(job.retold(answers[each], index, sample, self.continuations, scores[each]))
        return best
