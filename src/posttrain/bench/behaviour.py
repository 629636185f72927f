"""Behavioural tests run: what a model answers to the cases of a suite, and which of them fail.

A model that continues texts chooses the likeliest of the continuations or writes; a trained classifier labels the
texts. Failure rates come with Wilson's interval. It says what other cases from the same templates would show; it says
nothing of texts that the templates don't make.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from posttrain import __version__
from posttrain.bench.likelihood import likelihoods
from posttrain.bench.suite import Asking, Case, Drawn, Kind, Suite, SuiteTest, draw
from posttrain.core.errors import BadRequest
from posttrain.core.settings import fingerprint
from posttrain.decode.generation import generate
from posttrain.decode.labelling import classify
from posttrain.models.heads import has_head
from posttrain.models.sources import LABELS_TEXTS
from posttrain.ops.significance import share_interval

if TYPE_CHECKING:
    from posttrain.models.language_model import LanguageModel


@dataclass(frozen=True)
class Prediction:
    """What a model says to a text.

    Attributes:
        label: The label, or the answer in what was written.
        probabilities: By label; empty where the model writes.
        written: What it wrote; empty where it chooses.
    """

    label: str
    probabilities: dict[str, float]
    written: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, without what is empty."""
        told: dict[str, Any] = {"label": self.label}
        return told | ({"probabilities": self.probabilities} if self.probabilities else {"written": self.written})


@dataclass(frozen=True)
class Rate:
    """How often cases fail.

    Attributes:
        failures: Cases that fail.
        n: All cases.
    """

    failures: int
    n: int

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, with the `failure_rate` and its 95 % `interval` (Wilson)."""
        found = share_interval(self.failures, self.n)
        interval = [found.low, found.high]
        return {"failure_rate": found.value, "interval": interval, "failures": self.failures, "n": self.n}


@dataclass(frozen=True)
class Tested:
    """What came of a test.

    Attributes:
        name: The test's name.
        capability: Its capability.
        kind: Its kind.
        rate: How often it fails.
        by_chance: The failure rate of guessing; None where that means nothing.
        unchanged: Texts left out because nothing in them could be changed.
        failing: Each failing case: `texts`, `predictions`, and what was `expected`.
    """

    name: str
    capability: str
    kind: Kind
    rate: Rate
    by_chance: float | None
    unchanged: int
    failing: list[dict[str, Any]] = field(repr=False)


@dataclass(frozen=True)
class SuiteResult:
    """What came of a suite.

    Attributes:
        name: The suite's name.
        tests: Of each test, in the file's order.
        signature: How it was made.
        seconds: How long asking took.
    """

    name: str
    tests: list[Tested]
    signature: str
    seconds: float

    def capabilities(self) -> dict[str, Rate]:
        """By capability all cases of its tests together."""
        return {
            each: _sum([test.rate for test in self.tests if test.capability == each])
            for each in dict.fromkeys(test.capability for test in self.tests)
        }

    def total(self) -> Rate:
        """All cases together."""
        return _sum([test.rate for test in self.tests])

    def to_dict(self, examples: int | None = None) -> dict[str, Any]:
        """The JSON form.

        Args:
            examples: Failing cases shown of each test; all if None.
        """
        return {
            **self.total().to_dict(),
            "capabilities": {name: rate.to_dict() for name, rate in self.capabilities().items()},
            "tests": [
                {
                    "name": test.name,
                    "capability": test.capability,
                    "kind": test.kind,
                    **test.rate.to_dict(),
                    "by_chance": test.by_chance,
                    "unchanged": test.unchanged,
                    "failing": test.failing[:examples],
                }
                for test in self.tests
            ],
            "signature": self.signature,
            "seconds": self.seconds,
        }


def _sum(rates: Sequence[Rate]) -> Rate:
    return Rate(sum(rate.failures for rate in rates), sum(rate.n for rate in rates))


@dataclass(frozen=True)
class Effort:
    """How a model is asked.

    Attributes:
        tokens_per_pass: Most tokens read at once; no result depends on it beyond rounding.
        batch_size: Most texts written or labelled at once; the same holds.
        chat: Put prompts through the model's chat template, as a user's message.
        seed: Of the draws of cases, and of what is written.
    """

    tokens_per_pass: int = 1024
    batch_size: int = 16
    chat: bool = False
    seed: int = 0


@dataclass(frozen=True)
class _Asked:
    """A text to ask about."""

    test: SuiteTest
    case: Case
    text: str


def run(
    model: LanguageModel,
    name: str,
    suite: Suite,
    *,
    where: str,
    most: int | None = None,
    labels: Mapping[str, str] | None = None,
    effort: Effort | None = None,
) -> SuiteResult:
    """Test a model.

    Args:
        model: A causal language model or a classifier of texts.
        name: The suite's name.
        suite: The suite.
        where: Its file, for messages.
        most: Draw at most so many cases for each test.
        labels: A classifier's names for the suite's labels, where neither label nor suite has them.
        effort: How the model is asked.

    Raises:
        BadRequest: If the suite can't be asked of such a model, or a test has no cases.
        Failure: If the model's logits aren't numbers.
    """
    effort = effort or Effort()
    drawn = [draw(suite, test, where, effort.seed, most) for test in suite.tests]
    asked = [
        _Asked(test, case, text)
        for test, found in zip(suite.tests, drawn)
        for case in found.cases
        for text in case.texts
    ]
    start = time.perf_counter()
    answer = _labelled if has_head(model.network, LABELS_TEXTS) else _continued
    predictions = iter(answer(model, suite, where, asked, labels or {}, effort))
    results = [
        _judged(suite, test, found, [[next(predictions) for _ in case.texts] for case in found.cases], where)
        for test, found in zip(suite.tests, drawn)
    ]
    cases = sum(len(found.cases) for found in drawn)
    signature = (
        f"{name}|version:{suite.version}|suite:{fingerprint(suite.model_dump(mode='json'))}|cases:{cases}"
        f"|seed:{effort.seed}|chat:{str(effort.chat).lower()}|model:{model.fingerprint()[:12]}|posttrain:{__version__}"
    )
    return SuiteResult(name, results, signature, time.perf_counter() - start)


def _judged(
    suite: Suite, test: SuiteTest, drawn: Drawn, predictions: Sequence[Sequence[Prediction]], where: str
) -> Tested:
    """Which cases fail."""
    failing = []
    for case, found in zip(drawn.cases, predictions):
        if _fails(test, case, found, where):
            failing.append(
                {
                    "texts": case.texts,
                    "predictions": [each.to_dict() for each in found],
                    **({"expected": case.expected} if case.expected is not None else {}),
                }
            )
    sizes = {len(found[0].probabilities) for found in predictions}
    guessing = 1 - 1 / sizes.pop() if test.kind == "MFT" and len(sizes) == 1 and 0 not in sizes else None
    rate = Rate(len(failing), len(drawn.cases))
    return Tested(test.name, test.capability, test.kind, rate, guessing, drawn.unchanged, failing)


def _fails(test: SuiteTest, case: Case, predictions: Sequence[Prediction], where: str) -> bool:
    before, *after = predictions
    if case.expected is not None:
        if before.probabilities:
            if case.expected not in before.probabilities:
                raise BadRequest(
                    f"{where}: the test '{test.name}' expects '{case.expected}', which is none of the labels "
                    f"{', '.join(before.probabilities)}."
                )
            return before.label != case.expected
        return not _matches(case.expected, before.written, test, where)
    if test.moves is None:
        return any(each.label != before.label and _change(before, each) > test.tolerance for each in after)
    label, sign = test.moves.label, 1 if test.moves.to == "up" else -1
    if label not in before.probabilities:
        raise BadRequest(
            f"{where}: the test '{test.name}' moves '{label}', which is none of the labels "
            f"{', '.join(before.probabilities)}."
        )
    return any(sign * (each.probabilities[label] - before.probabilities[label]) < test.moves.by for each in after)


def _matches(pattern: str, text: str, test: SuiteTest, where: str) -> bool:
    try:
        return re.search(pattern, text) is not None
    except re.error as error:
        raise BadRequest(
            f"{where}: the test '{test.name}' expects {pattern!r}, which is no regular expression: {error}."
        ) from None


def _change(before: Prediction, after: Prediction) -> float:
    """The largest change of a probability; 1 where there are none."""
    changes = [abs(after.probabilities.get(label, 0.0) - p) for label, p in before.probabilities.items()]
    return max(changes, default=1.0)


def _continued(
    model: LanguageModel,
    suite: Suite,
    where: str,
    asked: Sequence[_Asked],
    labels: Mapping[str, str],
    effort: Effort,
) -> list[Prediction]:
    """Answers of a model that continues texts: all choices at once, and all that is written the same way at once."""
    found: dict[int, Prediction] = {}
    choosing: list[tuple[int, Asking]] = []
    writing: dict[str, list[tuple[int, Asking]]] = {}
    for number, each in enumerate(asked):
        how = each.test.ask or suite.ask
        if how is None:
            raise BadRequest(
                f"{where} says nothing of how a model is asked that continues texts.",
                "Give it `ask`, or test a classifier.",
            )
        if how.write is None:
            choosing.append((number, how))
        else:
            writing.setdefault(fingerprint(how.write.model_dump(mode="json")), []).append((number, how))
    prompt_of = _prompts(model, asked, effort.chat)
    found |= _chosen(model, asked, choosing, prompt_of, effort)
    for group in writing.values():
        found |= _written(model, [(number, how, prompt_of(number, how)) for number, how in group], effort)
    return [found[number] for number in range(len(asked))]


def _prompts(model: LanguageModel, asked: Sequence[_Asked], chat: bool) -> Callable[[int, Asking], str]:
    """Gives the prompt of a text."""
    if chat and not model.tokenizer.chat_template:
        raise BadRequest("The model's tokenizer has no chat template.", "Leave chat out, or use a chat model.")

    def prompt_of(number: int, how: Asking) -> str:
        each = asked[number]
        prompt = each.case.saying(each.text).text(how.prompt, "ask.prompt")
        if not chat:
            return prompt
        message = [{"role": "user", "content": prompt}]
        return str(model.tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True))

    return prompt_of


def _chosen(
    model: LanguageModel,
    asked: Sequence[_Asked],
    choosing: Sequence[tuple[int, Asking]],
    prompt_of: Callable[[int, Asking], str],
    effort: Effort,
) -> dict[int, Prediction]:
    pairs: list[tuple[str, str]] = []
    offered: list[dict[str, str]] = []
    for number, how in choosing:
        each = asked[number]
        continuations = how.continuations(each.case.saying(each.text))
        if len(continuations) < 2:
            raise BadRequest(
                f"The test '{each.test.name}' has a case with a single choice: {', '.join(continuations)}."
            )
        offered.append(continuations)
        prompt = prompt_of(number, how)
        # Behind a chat template's last line an answer begins without a blank.
        delimiter = "" if effort.chat else how.delimiter
        pairs += [(prompt, delimiter + text) for text in continuations.values()]
    scores = iter(likelihoods(model, pairs, effort.tokens_per_pass)) if pairs else iter(())
    found = {}
    for (number, how), continuations in zip(choosing, offered):
        logprobs = np.array(
            [next(scores).logprob / (len(text) if how.by_length else 1) for text in continuations.values()]
        )
        shares = np.exp(logprobs - logprobs.max())
        probabilities = dict(zip(continuations, (shares / shares.sum()).tolist()))
        found[number] = Prediction(max(probabilities, key=lambda label: probabilities[label]), probabilities)
    return found


def _written(model: LanguageModel, group: Sequence[tuple[int, Asking, str]], effort: Effort) -> dict[int, Prediction]:
    how = group[0][1].write
    assert how is not None
    tokens = [model.tokenizer(prompt, add_special_tokens=not effort.chat)["input_ids"] for _, _, prompt in group]
    written = generate(
        model,
        tokens,
        search=how.search,
        max_new_tokens=how.max_new_tokens,
        stop=how.stop,
        seed=effort.seed,
        batch_size=effort.batch_size,
    )
    texts = [each.text for each in written.generations if each.sample == 0]
    found = {}
    for (number, _, _), text in zip(group, texts, strict=True):
        match = re.search(how.extract, text)
        answer = "" if match is None else next((part for part in match.groups() if part), match[0])
        found[number] = Prediction(answer.strip(), {}, text)
    return found


def _labelled(
    model: LanguageModel,
    suite: Suite,
    where: str,
    asked: Sequence[_Asked],
    labels: Mapping[str, str],
    effort: Effort,
) -> list[Prediction]:
    """Labels of a trained classifier, under the suite's names."""
    if not suite.labels:
        raise BadRequest(
            f"{where} asks a model that continues texts, and {model.reference or 'the model'} labels them.",
            "Test it with a suite that has `labels`.",
        )
    found = classify(model, [each.text for each in asked], batch_size=effort.batch_size)
    if not isinstance(found[0].label, str):
        raise BadRequest(
            "The classifier gives a number or several labels at once, and suites expect one label.",
            "Test a classifier of exclusive classes.",
        )
    name_of = _own_names(suite, where, list(found[0].probabilities), labels)
    predictions = []
    for each in found:
        shares = {name_of[name]: share for name, share in each.probabilities.items()}
        if not all(math.isfinite(share) for share in shares.values()):
            raise BadRequest("The classifier's scores are not numbers (NaN).", "Check its weights.")
        predictions.append(Prediction(name_of[str(each.label)], shares))
    return predictions


def _own_names(suite: Suite, where: str, known: Sequence[str], labels: Mapping[str, str]) -> dict[str, str]:
    """Of each of the classifier's labels the suite's name for it; its own where the suite has none."""
    if unknown := [label for label in labels if label not in suite.labels]:
        raise BadRequest(f"labels: {where} has no label '{unknown[0]}'.", f"Its labels are {', '.join(suite.labels)}.")
    folded = {name.lower(): name for name in known}
    found: dict[str, str] = {}
    for label, others in suite.labels.items():
        wanted = [labels[label]] if label in labels else [label, *others]
        name = next((folded[each.lower()] for each in wanted if each.lower() in folded), None)
        if name is None:
            raise BadRequest(
                f"The classifier has no label '{label}'; its labels are {', '.join(known)}.",
                f"Say which of them it is, as in labels.{label}={known[0]}.",
            )
        if name in found:
            raise BadRequest(f"The classifier's label '{name}' would be '{found[name]}' and '{label}'.")
        found[name] = label
    return {name: found.get(name, name) for name in known}
