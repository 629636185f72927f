"""An answer in the model's own words: what it writes is searched for the answer, which is compared with the right one.

The likeliest token is taken at each step. Extraction and comparison as in lm-evaluation-harness: a pattern's groups
stand for the whole match where it has any, and both texts lose what the patterns in `ignore` match before they are
compared. Left out: several samples with a vote among them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from posttrain.bench.item import Expression, Item, Template
from posttrain.bench.question import Question, Solved
from posttrain.bench.task_types import Effort, Reply, TaskType
from posttrain.bench.writing import write
from posttrain.core.catalog import block
from posttrain.core.settings import Settings
from posttrain.models.language_model import LanguageModel


def _checked(pattern: str) -> str:
    if "{{" in pattern:  # a template; what it makes is compiled later
        return pattern
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from None
    return pattern


Pattern = Annotated[str, AfterValidator(_checked)]

# What an answer that can't be found is compared as.
NOT_FOUND = "[invalid]"


class Extraction(Settings):
    """How the answer is found in what the model wrote."""

    pattern: Annotated[Template, AfterValidator(_checked)] | None = None
    """A regular expression, or a template that makes one; its first group that isn't empty is the answer, or the whole
    match if it has none. Without it the whole text is the answer, less blanks at both ends."""

    last: bool = False
    """Take the last match instead of the first."""


class Generative(TaskType):
    """Write an answer and compare it."""

    prompt: Template
    """The prompt, a template."""

    answer: Template
    """The right answer, a template; in solved examples it stands as it is."""

    references: Expression | None = None
    """All right answers, an expression that gives a list of texts, for metrics of all items together; `answer` alone
    when not given."""

    extract: dict[str, Extraction] = {}
    """The metrics, each with how it finds the answer; the first is the task's score. Without any, the whole text is the
    answer and the metric is called exact_match."""

    ignore: list[Pattern] = []
    """What these match is removed from both answers before they are compared."""

    ignore_case: bool = False
    """Compare without regard to capitals."""

    stop: list[str] = []
    """Texts that end what the model writes, beside its own end of text."""

    max_new_tokens: int = Field(256, ge=1)
    """Most tokens written."""

    delimiter: str = " "
    """What stands between prompt and answer in solved examples."""

    search: block("search") = Field(default_factory=lambda: {"greedy": {}})  # type: ignore[valid-type]
    """How tokens are chosen."""

    @property
    def measured(self) -> tuple[str, ...]:
        """The extractions' names."""
        return tuple(self.extract) or ("exact_match",)

    def solved(self, item: Item) -> Solved:
        """Prompt, delimiter and answer."""
        return Solved(item.text(self.prompt, "prompt"), item.text(self.answer, "answer"), self.delimiter)

    def ask(self, model: LanguageModel, questions: Sequence[Question], effort: Effort) -> list[Reply]:
        """Let the model write, extract and compare."""
        prompts = [q.context(q.item.text(self.prompt, "prompt")) for q in questions]
        answers = [q.item.text(self.answer, "answer") for q in questions]
        references = [self._references(q.item, answer) for q, answer in zip(questions, answers)]
        written, cut = write(
            model,
            prompts,
            search=self.search,
            max_new_tokens=self.max_new_tokens,
            stop=self.stop,
            batch_size=effort.batch_size,
        )
        replies = []
        rows = zip(questions, prompts, answers, references, written, cut)
        for question, prompt, answer, right, (text, *_), left in rows:
            extracted = {name: self.extracted(text, name, question.item) for name in self.measured}
            scores = {name: float(self.equal(found, answer)) for name, found in extracted.items()}
            record: dict[str, Any] = {"prompt": prompt, "text": text, "extracted": extracted, "answer": answer}
            replies.append(Reply(scores, record, None, left, extracted[self.measured[0]], right))
        return replies

    def _references(self, item: Item, answer: str) -> list[str]:
        if self.references is None:
            return [answer]
        found = item.value(self.references, "references")
        if not isinstance(found, (list, tuple)) or not found or not all(isinstance(each, str) for each in found):
            raise item.problem("references", f"it must give a list of texts, not {found!r}")
        return list(found)

    def extracted(self, text: str, metric: str, item: Item) -> str:
        """The answer in a text, as a metric finds it."""
        if not self.extract:
            return text
        how = self.extract[metric]
        if how.pattern is None:
            return text.strip()
        matches = _pattern(how.pattern, item, f"extract.{metric}.pattern").findall(text)
        if not matches:
            return NOT_FOUND
        match = matches[-1 if how.last else 0]
        if isinstance(match, tuple):
            match = next((group for group in match if group), NOT_FOUND)
        return str(match).strip()

    def equal(self, found: str, answer: str) -> bool:
        """Whether an extracted answer is the right one."""
        return self._plain(found) == self._plain(answer)

    def _plain(self, text: str) -> str:
        for pattern in self.ignore:
            text = re.sub(pattern, "", text)
        return text.lower() if self.ignore_case else text


def _pattern(source: str, item: Item, key: str) -> re.Pattern[str]:
    """The regular expression that a pattern or a template of one is for an item."""
    if "{{" not in source:
        return re.compile(source)
    made = item.text(source, key)
    try:
        return re.compile(made)
    except re.error as error:
        raise item.problem(key, f"{made!r} is not a regular expression: {error}") from None
