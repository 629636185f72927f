"""The contract of a judge: a model says which of two answers to a prompt is better.

Each file is one way to ask a model. It gets answers in the order in which the model is to see them and returns how
strongly the first is preferred. Asking in both orders, ties, and what a verdict is worth are the business of
`posttrain.bench.judging`.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from posttrain.bench.task_types import Effort
from posttrain.core.settings import Settings
from posttrain.data.record import Dialogue
from posttrain.models.language_model import LanguageModel


@dataclass(frozen=True)
class Contest:
    """Two answers to a prompt.

    Attributes:
        prompt: Text or messages.
        first: The answer shown first.
        second: The other one.
    """

    prompt: str | Dialogue
    first: str
    second: str

    def swapped(self) -> Contest:
        """The same in the other order."""
        return Contest(self.prompt, self.second, self.first)


@dataclass(frozen=True)
class Opinion:
    """What the model says of a contest.

    Attributes:
        preference: How strongly the first answer is preferred, in [0, 1]: 1 wholly, ½ neither, 0 the second; None if
            the model gave no verdict.
        record: What it was read from, JSON-able.
    """

    preference: float | None
    record: dict[str, Any] = field(default_factory=dict)


class Judge(Settings):
    """Base of all judges."""

    # Whether the model sees both answers at once, so that their order may matter.
    sees_both: ClassVar[bool] = True

    @abstractmethod
    def prepare(self, model: LanguageModel) -> None:
        """Look whether the model can judge in this way, and give it what it needs; called once.

        Raises:
            BadRequest: If it can't.
        """

    @abstractmethod
    def opinions(
        self, model: LanguageModel, contests: Sequence[Contest], criterion: str, effort: Effort
    ) -> list[Opinion]:
        """Ask the model.

        Args:
            model: A prepared one.
            contests: At least one.
            criterion: By what: overall, helpful, harmless, honest …
            effort: How the work is cut up.

        Returns:
            An opinion on each contest, in order.
        """


class PointwiseJudge(Judge):
    """Base of judges that grade each answer by itself."""

    sees_both: ClassVar[bool] = False

    @abstractmethod
    def grades(
        self, model: LanguageModel, answers: Sequence[tuple[str | Dialogue, str]], criterion: str, effort: Effort
    ) -> list[float | None]:
        """A grade for each prompt with an answer, higher is better; None for one that can't be graded."""

    def preference(self, first: float, second: float) -> float:
        """How strongly the first answer is preferred, from the grades of both."""
        return 0.5 if first == second else float(first > second)

    def opinions(
        self, model: LanguageModel, contests: Sequence[Contest], criterion: str, effort: Effort
    ) -> list[Opinion]:
        """Grade each different answer once and compare."""
        keys = [[json.dumps([each.prompt, answer]) for answer in (each.first, each.second)] for each in contests]
        answers = {
            key: (each.prompt, answer)
            for each, pair in zip(contests, keys)
            for key, answer in zip(pair, (each.first, each.second))
        }
        grades = dict(zip(answers, self.grades(model, list(answers.values()), criterion, effort)))
        found = []
        for first, second in ([grades[key] for key in pair] for pair in keys):
            known = first is not None and second is not None
            preference = self.preference(first, second) if first is not None and second is not None else None
            found.append(Opinion(preference, {"grades": [first, second]} if known else {"too_long": True}))
        return found
