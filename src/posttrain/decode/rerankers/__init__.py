"""Rerankers: which of several answers to a prompt is the best one. The contract."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from posttrain.core.settings import Settings

if TYPE_CHECKING:
    from posttrain.decode.sequence import Generated, Question
    from posttrain.models.language_model import LanguageModel


class Reranker(Settings):
    """A way to score answers that are finished."""

    def inputs(self) -> dict[str, Any]:
        """What besides the settings decides the scores: hashes of files."""
        return {}

    def judge(self, model: LanguageModel) -> LanguageModel:
        """The model that scores, asked for once, before any answer is drawn: the one that answers, or another.

        Args:
            model: The one that answers.

        Raises:
            BadRequest: If there is no such model or it can't judge.
        """
        return model

    @abstractmethod
    def scores(self, judge: LanguageModel, prompt: Question, answers: Sequence[Generated]) -> list[float]:
        """One number an answer, higher is better; -inf for one that is out of the question.

        Args:
            judge: What `judge` returned.
            prompt: A text, or messages.
            answers: At least one answer to it.
        """
