"""One right continuation: is it what the model would write, and how likely does the model find it?

`acc` counts the items whose every token is the likeliest one, `perplexity` is exp of the mean nats an item (LAMBADA:
Paperno et al., 2016; Radford et al., 2019). There is no level of chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from posttrain.bench.item import Item, Template
from posttrain.bench.likelihood import likelihoods
from posttrain.bench.question import Question, Solved
from posttrain.bench.task_types import Effort, Reply, TaskType
from posttrain.models.language_model import LanguageModel


class Continuation(TaskType):
    """Predict a given continuation."""

    perplexities: ClassVar[frozenset[str]] = frozenset({"perplexity"})

    prompt: Template
    """The prompt, a template."""

    continuation: Template
    """The right continuation, a template."""

    delimiter: str = " "
    """What stands between them."""

    metrics: tuple[Literal["acc", "perplexity"], ...] = Field(("acc", "perplexity"), min_length=1)
    """What is measured; the first is the task's score."""

    @property
    def measured(self) -> tuple[str, ...]:
        """The metrics."""
        return self.metrics

    def solved(self, item: Item) -> Solved:
        """Prompt and continuation."""
        return Solved(item.text(self.prompt, "prompt"), item.text(self.continuation, "continuation"), self.delimiter)

    def ask(self, model: LanguageModel, questions: Sequence[Question], effort: Effort) -> list[Reply]:
        """Score the continuations."""
        pairs = [(q.context(q.item.text(self.prompt, "prompt")), self._continuation(q.item)) for q in questions]
        replies = []
        for (prompt, continuation), found in zip(pairs, likelihoods(model, pairs, effort.tokens_per_pass)):
            scores = {"acc": float(found.greedy), "perplexity": -found.logprob}
            record = {
                "prompt": prompt,
                "continuation": continuation,
                "logprob": found.logprob,
                "greedy": found.greedy,
            }
            replies.append(Reply({name: scores[name] for name in self.metrics}, record, None, found.cut))
        return replies

    def _continuation(self, item: Item) -> str:
        return self.delimiter + item.text(self.continuation, "continuation")
