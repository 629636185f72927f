"""A blank with several fillings: the model chooses the one after which the rest of the sentence is likeliest.

Each filling makes a context of its own, and only what follows the blank is scored, so that the fillings' own
likelihoods don't matter (partial evaluation of Trinh and Le, A Simple Method for Commonsense Reasoning, 2018).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field

from posttrain.bench.item import Expression, Item, Template
from posttrain.bench.likelihood import likelihoods
from posttrain.bench.question import Question, Solved
from posttrain.bench.task_types import Effort, Reply, TaskType
from posttrain.models.language_model import LanguageModel


class PartialContext(TaskType):
    """Choose the context that makes a continuation likeliest."""

    contexts: list[Template] = Field(min_length=2)
    """The contexts, templates: what precedes the blank with each of the fillings."""

    continuation: Template
    """What follows the blank, a template."""

    answer: Expression
    """The number of the right context, counted from 0, an expression."""

    delimiter: str = " "
    """What stands between context and continuation."""

    metrics: tuple[Literal["acc"], ...] = Field(("acc",), min_length=1)
    """What is measured."""

    @property
    def measured(self) -> tuple[str, ...]:
        """The metrics."""
        return self.metrics

    def solved(self, item: Item) -> Solved:
        """The right context with the continuation."""
        continuation = item.text(self.continuation, "continuation")
        return Solved(self._contexts(item)[self._right(item)], continuation, self.delimiter)

    def ask(self, model: LanguageModel, questions: Sequence[Question], effort: Effort) -> list[Reply]:
        """Compare the continuation's log-likelihoods."""
        asked = [[q.context(context) for context in self._contexts(q.item)] for q in questions]
        rights = [self._right(q.item) for q in questions]
        continuations = [self._continuation(q) for q in questions]
        pairs = [(context, end) for contexts, end in zip(asked, continuations) for context in contexts]
        found = iter(likelihoods(model, pairs, effort.tokens_per_pass))
        replies = []
        for contexts, continuation, right in zip(asked, continuations, rights):
            given = [next(found) for _ in contexts]
            logprobs = [each.logprob for each in given]
            chosen = int(np.argmax(logprobs))
            record: dict[str, Any] = {
                "contexts": contexts,
                "continuation": continuation,
                "logprobs": logprobs,
                "right": [right],
                "chosen": {"acc": chosen},
            }
            cut = max(each.cut for each in given)
            replies.append(Reply({"acc": float(chosen == right)}, record, 1 / len(contexts), cut))
        return replies

    def _contexts(self, item: Item) -> list[str]:
        return [item.text(context, "contexts") for context in self.contexts]

    def _continuation(self, question: Question) -> str:
        return question.delimiter(self.delimiter) + question.item.text(self.continuation, "continuation")

    def _right(self, item: Item) -> int:
        answer = item.value(self.answer, "answer")
        if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < len(self.contexts):
            raise item.problem("answer", f"{answer!r} is none of the {len(self.contexts)} contexts")
        return answer
