"""Score: each answer is graded by itself, and the better grade wins.

The grade is the expected one, Σ s P(s) over the numbers of the scale as the reply's beginning: not the number that the
model would write, of which many answers get the same, but a fine one (Liu et al., 2023, "G-Eval", equation 1). Where a
number's tokens begin those of another, as 1 begins 10, the other's probability is taken off its own. Left out: several
aspects with grades of their own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self

from pydantic import Field, model_validator

from posttrain.bench.item import Template
from posttrain.bench.judges import PointwiseJudge
from posttrain.bench.judges._request import filled, opened, refuse_not_causal
from posttrain.bench.likelihood import encode_pairs, likelihoods
from posttrain.bench.task_types import Effort
from posttrain.data.record import Dialogue
from posttrain.models.language_model import LanguageModel


class Score(PointwiseJudge):
    """Grade each answer on a scale."""

    prompt: Template = (
        "Grade an assistant's answer to a request: how {{ good }} is it? Give a whole number from {{ lowest }} (worst) "
        "to {{ highest }} (best).\n\nRequest:\n{{ prompt }}\n\nAnswer:\n{{ answer }}\n\nSay the number, nothing else."
    )
    """What is asked; {{ prompt }} and {{ answer }} are the texts, {{ good }} and {{ criterion }} the criterion,
    {{ lowest }} and {{ highest }} the ends of the scale."""

    lead: str = "Grade:"
    """How the reply begins; the number follows."""

    lowest: int = Field(1, ge=0)
    """The worst grade."""

    highest: int = Field(10, le=100)
    """The best grade."""

    margin: float = Field(0.0, ge=0)
    """Grades that are at most so far apart are a tie."""

    chat: bool | None = None
    """Ask through the chat template; when not given, if there is one."""

    @model_validator(mode="after")
    def _scale(self) -> Self:
        if self.highest <= self.lowest:
            raise ValueError("`highest` must be above `lowest`")
        return self

    def prepare(self, model: LanguageModel) -> None:
        refuse_not_causal(model)

    def preference(self, first: float, second: float) -> float:
        return 0.5 if abs(first - second) <= self.margin else float(first > second)

    def grades(
        self, model: LanguageModel, answers: Sequence[tuple[str | Dialogue, str]], criterion: str, effort: Effort
    ) -> list[float | None]:
        scale = range(self.lowest, self.highest + 1)
        ends = {"lowest": str(self.lowest), "highest": str(self.highest)}
        contexts = [
            opened(model, filled(self.prompt, criterion, prompt, answer=answer, **ends), self.lead, self.chat)
            for prompt, answer in answers
        ]
        pairs = [(context, f" {grade}") for context in contexts for grade in scale]
        found = likelihoods(model, pairs, effort.tokens_per_pass)
        longer = self._longer(model, pairs[: len(scale)])
        grades: list[float | None] = []
        for start in range(0, len(found), len(scale)):
            each = found[start : start + len(scale)]
            grades.append(None if any(one.cut for one in each) else self._expected([e.logprob for e in each], longer))
        return grades

    def _expected(self, logprobs: Sequence[float], longer: Sequence[Sequence[int]]) -> float:
        """The mean grade under probabilities as that of a reply that says this number and not a longer one."""
        highest = max(logprobs)
        begun = [math.exp(each - highest) for each in logprobs]
        # Of what begins with 1 the part that goes on to 10, 11 …; rounding may leave less than nothing.
        shares = [max(0.0, begun[i] - sum(begun[j] for j in longer[i])) for i in range(len(begun))]
        return sum(grade * share for grade, share in enumerate(shares, self.lowest)) / sum(shares)

    def _longer(self, model: LanguageModel, pairs: Sequence[tuple[str, str]]) -> list[list[int]]:
        """For each grade the grades whose tokens begin with its own and go on by one number of tokens, by position."""
        tokens = [each.targets for each in encode_pairs(model, pairs)]
        found: list[list[int]] = []
        for ids in tokens:
            after = [j for j, other in enumerate(tokens) if len(other) > len(ids) and other[: len(ids)] == ids]
            nearest = [j for j in after if not any(tokens[j][: len(tokens[k])] == tokens[k] for k in after if k != j)]
            found.append(nearest)
        return found
