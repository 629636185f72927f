"""Likelihood: the answer that the model itself finds most probable for its length, log P(Y) / |Y|^α."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from posttrain.decode.rerankers import Reranker

if TYPE_CHECKING:
    from posttrain.decode.sequence import Generated, Question
    from posttrain.models.language_model import LanguageModel


class Likelihood(Reranker):
    """Prefer what the model itself finds probable."""

    length_penalty: float = Field(1.0, allow_inf_nan=False)
    """α: log-probabilities are divided by length^α; 1 is the mean of a token, 0 the probability of the whole answer."""

    def scores(self, judge: LanguageModel, prompt: Question, answers: Sequence[Generated]) -> list[float]:
        return [sum(answer.logprobs) / answer.length**self.length_penalty for answer in answers]
