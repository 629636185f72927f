"""score: what the current model answers, compared with the answers of a data set by metrics of texts.

The answers stay in the step's result, so a later `score` on the same questions can name this one as its baseline: then
each metric's difference comes with an interval and the p-value of a paired bootstrap over the questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from posttrain.core.catalog import blocks, term_of
from posttrain.core.errors import BadRequest, Failure, did_you_mean
from posttrain.data import dataset
from posttrain.data.record import Chat, Completion, Pair, Record, kind_of
from posttrain.decode.sequence import Question
from posttrain.measure import Comparison, Measurement, TextMetric
from posttrain.pipeline.steps import Context, Outcome
from posttrain.pipeline.steps._answering import Answering
from posttrain.pipeline.views import View, note, samples, table


class Score(Answering):
    """Let the current model answer and score the answers; of several answers to a question the best counts."""

    body: ClassVar[str | None] = "metrics"
    reads: ClassVar[tuple[str, ...]] = ("data",)

    metrics: blocks("measure")  # type: ignore[valid-type]
    """The metrics, as in {rouge: {stemming: true}, bleu: {}}."""

    data: str = "builtin:handbook_heldout"
    """Questions with their answers: prompt + completion, source + target, or conversations that an assistant ends."""

    split: str | None = None
    """Which split of the data set."""

    columns: dict[str, str] = {}
    """Maps names that records use (prompt, completion) to the file's own."""

    baseline: str | None = None
    """Name of an earlier score step on the same questions, whose answers to compare with."""

    def inputs(self, context: Context) -> dict[str, Any]:
        """Hash of the data, what the search reads, and the key of the baseline."""
        for metric in self.metrics:
            if not isinstance(metric, TextMetric):
                raise BadRequest(f"{term_of(metric)} measures a model, not texts.", "Use it in a measure step.")
        if not self.metrics:
            raise BadRequest("score needs at least one metric.", "For example score: {rouge: {}}.")
        read = self._read()
        found = super().inputs(context) | {"data": {"source": read.source, "hash": read.hash}}
        if self.baseline is not None:
            self._answers_of(self.baseline, context)
            found["baseline"] = context.keys[self.baseline]
        return found

    def _read(self) -> dataset.Dataset:
        return dataset.read(self.data, split=self.split, columns=self.columns, limit=self.limit)

    def run(self, context: Context) -> Outcome:
        """Ask, score and tabulate."""
        asked = [question(record, self.chat) for record in self._read()]
        prompts, references = [prompt for prompt, _ in asked], [[right] for _, right in asked]
        baseline = self._baseline(context, prompts, references)
        written = self.answers(context.model, prompts, context.seed)
        answers = [generation.text for generation in written.generations if generation.sample == 0]
        if len(answers) != len(prompts):
            raise Failure("Not every question has an answer: the processors allowed none.", "Loosen them.")
        found = [_scored(metric, answers, references, baseline, context.seed) for metric in self.metrics]
        systems = [each.system if isinstance(each, Comparison) else each for each in found]
        rows = [
            {"prompt": prompt, "answer": answer, "references": right}
            for prompt, answer, right in zip(prompts, answers, references)
        ]
        result = {each.name: one.to_dict() for each, one in zip(systems, found)}
        shown = [[_last(prompt), answer, right[0]] for prompt, answer, right in zip(prompts, answers, references)]
        views = [
            _table(found, self.baseline),
            *[note(f"Signature: {each.signature}", "source") for each in systems],
            samples("What it answers", ["question", context.model_name, "reference"], shown),
        ]
        return Outcome(
            {**result, "answers": rows, "tokens_per_second": written.tokens_per_second},
            views,
            headline=", ".join(f"{each.name} {each.value:.4g}" for each in systems),
        )

    def _answers_of(self, name: str, context: Context) -> list[dict[str, Any]]:
        earlier = {step: result["answers"] for step, result in context.results.items() if _is_scored(result)}
        if name not in earlier:
            raise BadRequest(f"There is no earlier score step '{name}'.", did_you_mean(name, earlier))
        return earlier[name]

    def _baseline(
        self, context: Context, prompts: Sequence[Question], references: Sequence[Sequence[str]]
    ) -> list[str] | None:
        """The baseline's answers to the same questions."""
        if self.baseline is None:
            return None
        rows = self._answers_of(self.baseline, context)
        if [(row["prompt"], row["references"]) for row in rows] != list(zip(prompts, references)):
            raise BadRequest(
                f"'{self.baseline}' answered other questions, so the two can't be compared.",
                "Give both steps the same data, limit and chat.",
            )
        return [row["answer"] for row in rows]


def question(record: Record, chat: bool) -> tuple[Question, str]:
    """What the model is asked, and what is right.

    Args:
        record: A completion, a pair, or a conversation whose last message is the assistant's.
        chat: Ask a text as a user's message.

    Raises:
        BadRequest: If the record holds no question with an answer.
    """
    if isinstance(record, Pair):
        record = Completion(record.source, record.target, origin=record.origin)
    if isinstance(record, Chat):
        record = Completion(record.messages[:-1], record.messages[-1:], origin=record.origin)
    if not isinstance(record, Completion):
        raise BadRequest(
            f"{record.origin}: a {kind_of(record)} record is no question with an answer.",
            "Give prompt + completion, or conversations.",
        )
    prompt, completion = record.prompt, record.completion
    if isinstance(completion, list):
        if len(completion) != 1 or completion[0]["role"] != "assistant" or not prompt:
            raise BadRequest(f"{record.origin}: the conversation doesn't end with one answer of the assistant.")
        completion = completion[0]["content"]
    if not completion.strip():
        raise BadRequest(f"{record.origin}: the reference is empty, so there is nothing to compare with.")
    if isinstance(prompt, str):
        return ([{"role": "user", "content": prompt}] if chat else prompt), completion
    if not chat:
        raise BadRequest(f"{record.origin}: messages can't be asked without the chat template.", "Leave chat out.")
    return prompt, completion


def _scored(
    metric: TextMetric,
    answers: Sequence[str],
    references: Sequence[Sequence[str]],
    baseline: Sequence[str] | None,
    seed: int,
) -> Measurement | Comparison:
    right = references if metric.needs_references else ()
    if baseline is None:
        return metric.score(answers, right, seed=seed)
    return metric.compare(answers, baseline, right, seed=seed)


def _is_scored(result: dict[str, Any]) -> bool:
    answers = result.get("answers")
    return isinstance(answers, list) and all(isinstance(row, dict) and "references" in row for row in answers)


def _last(prompt: Question) -> str:
    """The last message, for people."""
    return prompt if isinstance(prompt, str) else str(prompt[-1]["content"])


def _table(found: Sequence[Measurement | Comparison], baseline: str | None) -> View:
    columns = ["metric", "value", "95 % interval"]
    rows: list[list[Any]] = []
    for each in found:
        system = each.system if isinstance(each, Comparison) else each
        rows.append([system.name, system.value, _interval(system.interval)])
        if isinstance(each, Comparison):
            rows[-1] += [each.baseline.value, each.difference, _interval(each.interval), each.p_value]
    if baseline is not None:
        columns += [baseline, "difference", "its 95 % interval", "p-value"]
    return table("Scores", columns, rows)


def _interval(interval: tuple[float, float] | None) -> str:
    return f"{interval[0]:.4g} … {interval[1]:.4g}" if interval else "–"
