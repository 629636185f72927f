"""Several choices: the model chooses the continuation of the prompt that it finds likeliest.

Scores as in lm-evaluation-harness: `acc` compares log-likelihoods, `acc_norm` divides them by the characters of the
choice and `acc_bytes` by its UTF-8 bytes, `acc_mutual_info` subtracts the choice's log-likelihood without the prompt
(Holtzman et al., Surface Form Competition, 2021). Where several choices are right, a choice among them counts, and
`mc2` is the share of probability that falls on them (TruthfulQA: Lin et al., 2022). Ties go to the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np
from pydantic import model_validator

from posttrain.bench.item import Expression, Item, Template
from posttrain.bench.likelihood import Likelihood, likelihoods
from posttrain.bench.question import Question, Solved
from posttrain.bench.task_types import Effort, Reply, TaskType
from posttrain.models.language_model import LanguageModel


class MultipleChoice(TaskType):
    """Choose the likeliest of some continuations."""

    prompt: Template
    """The prompt, a template."""

    choices: Expression | list[Template]
    """The choices: an expression that gives a list of texts, or a list of templates."""

    answer: Expression | None = None
    """The right choice, an expression: its number, counted from 0, or its text."""

    labels: Expression | None = None
    """Instead of `answer`: a list with 1 for each right choice and 0 for the others."""

    delimiter: str = " "
    """What stands between prompt and choice."""

    metrics: tuple[Literal["acc", "acc_norm", "acc_bytes", "acc_mutual_info", "mc2"], ...] = ("acc",)
    """What is measured; the first is the task's score. None where the task measures something else."""

    @model_validator(mode="after")
    def _one_answer(self) -> Self:
        if (self.answer is None) == (self.labels is None):
            raise ValueError("give either `answer` or `labels`")
        return self

    @property
    def measured(self) -> tuple[str, ...]:
        """The metrics."""
        return self.metrics

    def solved(self, item: Item) -> Solved:
        """Prompt, delimiter and the first right choice."""
        choices = self._choices(item)
        return Solved(item.text(self.prompt, "prompt"), choices[self._right(item, choices)[0]], self.delimiter)

    def ask(self, model: LanguageModel, questions: Sequence[Question], effort: Effort) -> list[Reply]:
        """Compare the choices' log-likelihoods."""
        alone = "acc_mutual_info" in self.metrics
        pairs: list[tuple[str, str]] = []
        asked: list[tuple[str, list[str], list[int]]] = []
        for question in questions:
            item = question.item
            prompt, choices = question.context(item.text(self.prompt, "prompt")), self._choices(item)
            delimiter = question.delimiter(self.delimiter)
            asked.append((prompt, choices, self._right(item, choices)))
            pairs += [(prompt, delimiter + choice) for choice in choices]
            pairs += [("", delimiter + choice) for choice in choices] if alone else []
        found = iter(likelihoods(model, pairs, effort.tokens_per_pass))
        replies = []
        for prompt, choices, right in asked:
            given = [next(found) for _ in choices]
            unconditional = [next(found) for _ in choices] if alone else []
            replies.append(self._reply(prompt, choices, right, given, unconditional))
        return replies

    def _reply(
        self,
        prompt: str,
        choices: list[str],
        right: list[int],
        given: Sequence[Likelihood],
        unconditional: Sequence[Likelihood],
    ) -> Reply:
        logprobs = np.array([each.logprob for each in given])
        compared = {
            "acc": logprobs,
            "acc_norm": logprobs / [len(choice) for choice in choices],
            "acc_bytes": logprobs / [len(choice.encode()) for choice in choices],
        }
        if unconditional:
            compared["acc_mutual_info"] = logprobs - [each.logprob for each in unconditional]
        chosen = {name: int(np.argmax(values)) for name, values in compared.items()}
        scores: dict[str, float] = {
            name: _mass(logprobs, right) if name == "mc2" else float(chosen[name] in right) for name in self.metrics
        }
        record = {
            "prompt": prompt,
            "choices": choices,
            "logprobs": logprobs.tolist(),
            "right": right,
            "chosen": {name: chosen[name] for name in dict.fromkeys(("acc", *self.metrics)) if name in chosen},
        }
        predicted, answers = choices[chosen["acc"]], [choices[each] for each in right]
        cut = max(each.cut for each in given)
        return Reply(scores, record, len(right) / len(choices), cut, predicted, answers)

    def _choices(self, item: Item) -> list[str]:
        if isinstance(self.choices, str):
            found = item.value(self.choices, "choices")
            if not isinstance(found, (list, tuple)) or not all(isinstance(each, str) for each in found):
                raise item.problem("choices", f"it must give a list of texts, not {found!r}")
        else:
            found = [item.text(each, "choices") for each in self.choices]
        if not found or not all(found):
            raise item.problem("choices", f"there must be some and none may be empty: {found!r}")
        return list(found)

    def _right(self, item: Item, choices: list[str]) -> list[int]:
        """The numbers of the right choices."""
        if self.labels is not None:
            labels = item.value(self.labels, "labels")
            right = [i for i, label in enumerate(labels) if label] if isinstance(labels, (list, tuple)) else []
            if not right or len(labels) != len(choices):
                raise item.problem("labels", f"it must give 1 or 0 for each of {len(choices)} choices, not {labels!r}")
            return right
        answer: Any = item.value(self.answer or "", "answer")
        if isinstance(answer, str) and answer in choices:
            return [choices.index(answer)]
        if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < len(choices):
            raise item.problem("answer", f"{answer!r} is none of the {len(choices)} choices")
        return [answer]


def _mass(logprobs: np.ndarray[Any, np.dtype[np.float64]], right: list[int]) -> float:
    """The share of the choices' probability that the right ones have."""
    shares = np.exp(logprobs - logprobs.max())
    return float(shares[right].sum() / shares.sum())
