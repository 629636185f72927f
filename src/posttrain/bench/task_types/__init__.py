"""The contract of a task type: how an item becomes something to ask a model, and what its reply is worth.

Each file is one type. It is given questions (an item and what stands before it), asks the model about all of them at
once, and gives each reply its scores. Reading data, choosing solved examples and adding up are not its business.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from posttrain.bench.item import Item
from posttrain.bench.question import Question, Solved
from posttrain.core.settings import Settings
from posttrain.models.language_model import LanguageModel


@dataclass(frozen=True)
class Reply:
    """What came of a question.

    Attributes:
        scores: One number for each of the type's metrics.
        record: What was asked and answered, JSON-able.
        chance: The score that guessing would get in the first metric; None if that means nothing.
        cut: Tokens of the prompt left out because the model can't read so much.
        predicted: The model's answer as a text, for metrics of all items together; None if the type has none.
        answers: The right answers as texts.
    """

    scores: dict[str, float]
    record: dict[str, Any]
    chance: float | None
    cut: int
    predicted: str | None = None
    answers: Sequence[str] = ()


@dataclass(frozen=True)
class Effort:
    """How the work is cut up; no score depends on it beyond rounding.

    Attributes:
        tokens_per_pass: Most tokens read at once.
        batch_size: Most texts written at once.
    """

    tokens_per_pass: int
    batch_size: int


class TaskType(Settings):
    """Base of all task types."""

    # Metrics whose items are nats: their figure is exp of the mean, and smaller is better.
    perplexities: ClassVar[frozenset[str]] = frozenset()

    @property
    @abstractmethod
    def measured(self) -> tuple[str, ...]:
        """Names of the metrics that each reply has a score in; the first is the task's score."""

    def conditions(self) -> str:
        """What of this machine may decide scores, for the signature; empty where nothing does.

        Raises:
            BadRequest: If tasks of this type can't be asked on this machine.
        """
        return ""

    @abstractmethod
    def solved(self, item: Item) -> Solved:
        """The item with its right answer, as it stands among the examples."""

    @abstractmethod
    def ask(self, model: LanguageModel, questions: Sequence[Question], effort: Effort) -> list[Reply]:
        """Ask the model.

        Args:
            model: A causal language model.
            questions: At least one.
            effort: How the work is cut up.

        Returns:
            A reply to each question, in order.

        Raises:
            BadRequest: If an item doesn't fit the type; names task, key and item.
        """
