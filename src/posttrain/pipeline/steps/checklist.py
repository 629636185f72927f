"""checklist: behavioural tests of the current model (Ribeiro et al., 2020), with failure rates and failing cases."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from posttrain.bench.behaviour import Effort, SuiteResult, run
from posttrain.bench.suite import Suite, find
from posttrain.core.files import write_json
from posttrain.models.language_model import LanguageModel
from posttrain.pipeline.quantities import show
from posttrain.pipeline.steps import Context, Outcome, Step
from posttrain.pipeline.views import View, note, samples, table

CASES_FILE = "failing.json"


class Checklist(Step):
    """Run a suite of behavioural tests on the current model."""

    body: ClassVar[str | None] = "suite"

    suite: str
    """The suite: language_model for a model that continues texts, sentiment for a classifier as well, or a file of your
    own, which ends in .yaml."""

    samples: int | None = Field(None, ge=1)
    """Draw at most so many cases for each test; as many as each test says when not given."""

    labels: dict[str, str] = {}
    """A classifier's own names for the suite's labels, as in {positive: LABEL_1}."""

    chat: bool = False
    """Ask a chat model through its template."""

    examples: int = Field(3, ge=0)
    """Failing cases shown of each test; all of them stay in the step's folder."""

    tokens_per_pass: int = Field(1024, ge=1)
    """Tokens read at once; changes speed and memory, never the results."""

    batch_size: int = Field(16, ge=1)
    """Texts written or labelled at once; changes speed and memory, never the results."""

    def read(self) -> Suite:
        """The suite.

        Raises:
            BadRequest: If there is none of that name or its file isn't right.
        """
        return find(self.suite)[1]

    def inputs(self, context: Context) -> dict[str, Any]:
        """The suite's content."""
        return {"suite": self.read().model_dump(mode="json")}

    def tested(self, model: LanguageModel, seed: int) -> SuiteResult:
        """What comes of the suite.

        Args:
            model: A causal language model or a classifier.
            seed: Of the draws of cases.
        """
        file, suite = find(self.suite)
        effort = Effort(self.tokens_per_pass, self.batch_size, self.chat, seed)
        return run(model, file.stem, suite, where=str(file), most=self.samples, labels=self.labels, effort=effort)

    def run(self, context: Context) -> Outcome:
        """Ask, judge and tabulate."""
        found = self.tested(context.model, context.seed)
        whole = found.to_dict()
        write_json(context.folder / CASES_FILE, {test["name"]: test["failing"] for test in whole["tests"]})
        total = found.total()
        return Outcome(
            {**found.to_dict(self.examples), "all_failing": CASES_FILE},
            _views(found, self.examples),
            headline=f"{total.failures} of {total.n} cases fail",
        )


def _views(found: SuiteResult, examples: int) -> list[View]:
    """Capabilities, tests, and failing cases of each."""
    columns = ["failure rate", "its 95 % interval", "failures", "cases"]
    by_capability = [[name, *_row(rate.to_dict())] for name, rate in found.capabilities().items()]
    by_test = [
        [test.name, test.capability, test.kind, *_row(test.rate.to_dict()), test.by_chance] for test in found.tests
    ]
    views = [
        table(f"Capabilities in {found.name}", ["capability", *columns], by_capability),
        table(f"Tests of {found.name}", ["test", "capability", "kind", *columns, "by chance"], by_test),
    ]
    for test in found.tests:
        if skipped := test.unchanged:
            views.append(note(f"{test.name}: {skipped} texts had nothing to change and were left out."))
        if test.failing and examples:
            rows = [[_told(each, 0), *_expected(each)] for each in test.failing[:examples]]
            views.append(samples(f"Failing: {test.name}", ["text and answer", "expected, or changed"], rows))
    return [*views, note(f"Signature: {found.signature}", "source")]


def _row(rate: dict[str, Any]) -> list[Any]:
    return [rate["failure_rate"], show(rate["interval"]), rate["failures"], rate["n"]]


def _told(case: dict[str, Any], number: int) -> str:
    """A text with what the model says to it."""
    answer = case["predictions"][number]
    shares = answer.get("probabilities")
    said = f"{answer['label']} ({shares[answer['label']]:.2f})" if shares else answer["written"].strip()
    return f"{case['texts'][number]} → {said}"


def _expected(case: dict[str, Any]) -> list[str]:
    changed = [_told(case, number) for number in range(1, len(case["texts"]))]
    return ["\n".join(changed) if changed else str(case["expected"])]
