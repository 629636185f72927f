"""Programs: the model writes code, the sandbox runs it with the item's tests, and what passes counts.

The score is pass@k, the chance that one of k programs passes (`posttrain.bench.pass_at_k`). With one sample the
likeliest token is taken at each step; with several they are drawn. As in the original harness, a program is everything
together, in one module: what the prompt begins, the completion, the tests (Chen et al., 2021, section 2). Left out:
programs in other languages than Python, and packages beside Python's own library.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Self

from pydantic import Field, model_validator

from posttrain.bench.item import Expression, Item, Template
from posttrain.bench.pass_at_k import pass_at_k
from posttrain.bench.question import Question, Solved
from posttrain.bench.sandbox import Outcome, Sandbox
from posttrain.bench.task_types import Effort, Reply, TaskType
from posttrain.bench.writing import write
from posttrain.core import catalog
from posttrain.models.language_model import LanguageModel


class Code(TaskType):
    """Write a program and run it with tests."""

    prompt: Template
    """The prompt, a template."""

    program: Template
    """The program that is run, a template in which `completion` is what the model wrote; it has passed when it comes to
    its end."""

    answer: Template
    """A right completion, a template; it stands in solved examples."""

    id: Expression = "task_id"
    """What an item is called in files of samples, an expression."""

    opening: Template = ""
    """How the model's answer begins, a template; solved examples don't have it."""

    delimiter: str = ""
    """What stands between prompt and answer in solved examples."""

    closing: str = ""
    """What follows the answer in solved examples."""

    stop: list[str] = []
    """Texts that end what the model writes, beside its own end of text."""

    max_new_tokens: int = Field(512, ge=1)
    """Most tokens written."""

    samples: int = Field(1, ge=1)
    """Programs written for each item."""

    temperature: float = Field(0.0, ge=0, allow_inf_nan=False)
    """0 takes the likeliest token; the larger, the more the samples differ."""

    top_p: float = Field(1.0, gt=0, le=1)
    """Draw from the smallest set of tokens that together have at least this probability; 1 is all."""

    pass_at: tuple[int, ...] = Field((1,), min_length=1)
    """The k of pass@k, none larger than `samples`; the first is the task's score."""

    sandbox: Sandbox = Sandbox()
    """How programs are confined, and what they may use up."""

    @model_validator(mode="after")
    def _enough(self) -> Self:
        if not 1 <= min(self.pass_at) <= max(self.pass_at) <= self.samples:
            raise ValueError(f"each k of `pass_at` must lie in 1 … samples, {self.samples}, not {list(self.pass_at)}")
        if self.samples > 1 and self.temperature == 0:
            raise ValueError("with temperature 0 all samples are alike; give a temperature or one sample")
        return self

    @property
    def measured(self) -> tuple[str, ...]:
        """pass@k for each k."""
        return tuple(f"pass@{k}" for k in self.pass_at)

    def conditions(self) -> str:
        """What confines the programs here, and the Python that runs them."""
        layers = "+".join(self.sandbox.check())
        return f"sandbox:{layers}|python:{sys.version_info.major}.{sys.version_info.minor}"

    def solved(self, item: Item) -> Solved:
        """Prompt, delimiter, answer and what follows it."""
        return Solved(item.text(self.prompt, "prompt"), item.text(self.answer, "answer") + self.closing, self.delimiter)

    def ask(self, model: LanguageModel, questions: Sequence[Question], effort: Effort) -> list[Reply]:
        """Let the model write, and run what it wrote."""
        prompts = [
            q.context(q.item.text(self.prompt, "prompt"), q.item.text(self.opening, "opening")) for q in questions
        ]
        drawn = {"temperature": self.temperature, "top_p": self.top_p, "num_samples": self.samples}
        written, cut = write(
            model,
            prompts,
            search=catalog.build("search", {"sampling": drawn}),
            max_new_tokens=self.max_new_tokens,
            stop=self.stop,
            batch_size=effort.batch_size,
        )
        replies = self.judge([question.item for question in questions], written)
        return [
            Reply(reply.scores, {"prompt": prompt, **reply.record}, None, lost)
            for prompt, reply, lost in zip(prompts, replies, cut)
        ]

    def judge(self, items: Sequence[Item], completions: Sequence[Sequence[str]]) -> list[Reply]:
        """Run completions; equal programs are run once.

        Args:
            items: [n].
            completions: [n], for each item at least as many as the largest k.

        Raises:
            BadRequest: If a template fails, or programs can't be confined here.
        """
        programs = [[self.program_of(item, text) for text in texts] for item, texts in zip(items, completions)]
        distinct = list(dict.fromkeys(program for each in programs for program in each))
        outcomes = dict(zip(distinct, self.sandbox.run_all(distinct)))
        return [
            self._reply(item, texts, [outcomes[program] for program in each])
            for item, texts, each in zip(items, completions, programs)
        ]

    def program_of(self, item: Item, completion: str) -> str:
        """The program that is run for a completion."""
        return item.with_values({"completion": completion}).text(self.program, "program")

    def name_of(self, item: Item) -> str:
        """What an item is called in files of samples."""
        return str(item.value(self.id, "id"))

    def _reply(self, item: Item, texts: Sequence[str], outcomes: Sequence[Outcome]) -> Reply:
        passed = sum(outcome.passed for outcome in outcomes)
        scores = {f"pass@{k}": pass_at_k(len(outcomes), passed, k) for k in self.pass_at}
        samples: list[dict[str, Any]] = [
            {"text": text, "passed": outcome.passed, "reason": outcome.reason, "detail": outcome.detail}
            for text, outcome in zip(texts, outcomes)
        ]
        return Reply(scores, {"id": self.name_of(item), "passed": passed, "samples": samples}, None, 0)
