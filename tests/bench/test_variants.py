"""Tasks with changed questions: what is changed, what never is, and what the signature says."""

from __future__ import annotations

import json
from dataclasses import replace
from random import Random

import pytest

from posttrain.bench import runner, task
from posttrain.bench.variants import asking_columns, perturbed, variant

TASK = """\
summary: A test.
version: "1"
license: free
homepage: https://example.org
data: {test: [{files: [items.jsonl]}]}
split: test
examples: {from: [test], draw: first}
"""
CHOICE = """\
type:
  multiple_choice:
    prompt: "Question: {{ question }} ({{ kind }})"
    choices: choices
    answer: choices.index(kind)
"""
# One column makes prompt and answer.
LAST_WORD = """\
type:
  continuation:
    prompt: "{{ text.split(' ')[0] }}"
    continuation: "{{ text.split(' ')[1] }}"
"""
BLANK = """\
type:
  partial_context:
    contexts: ["{{ sentence[:sentence.index('_')] }}{{ first }}", "{{ sentence[:sentence.index('_')] }}{{ second }}"]
    continuation: "{{ sentence[sentence.index('_') + 1:] }}"
    answer: answer
"""
WRITTEN = """\
type:
  generative: {prompt: "{{ question }}", answer: "#### {{ answer }}"}
"""
ROWS = [
    {"question": f"is it {i}?", "kind": "a", "choices": ["a", "b"], "text": "one two", "answer": 1}
    | {"sentence": "they met _ again", "first": "him", "second": "her"}
    for i in range(3)
]


@pytest.fixture
def plan(tmp_path):
    """Makes a plan of a task with this type."""

    def make(type_: str, num_fewshot: int = 0) -> runner.Plan:
        path = tmp_path / "own.yaml"
        path.write_text(TASK + type_)
        (tmp_path / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
        task.read.cache_clear()
        return runner.prepare([str(path)], tmp_path, num_fewshot=num_fewshot)[0]

    return make


def upper(text: str, random: Random) -> str:
    return text.upper()


@pytest.mark.parametrize(
    ("type_", "columns"),
    [(CHOICE, {"question"}), (LAST_WORD, set()), (BLANK, {"sentence"}), (WRITTEN, {"question"})],
)
def test_columns_that_ask(plan, type_, columns):
    assert asking_columns(plan(type_).selection.type) == columns


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("handbook_quiz", {"question"}),
        ("mmlu", {"question"}),
        ("hellaswag", {"query"}),
        ("sst2", {"sentence"}),
        ("gsm8k", {"question"}),
        ("winogrande", {"sentence"}),
        ("lambada_openai", set()),
        ("stereotype_pairs", set()),
    ],
)
def test_columns_of_shipped_tasks(name, columns):
    found = asking_columns(task.find(name).type)
    assert columns <= found and not found & {"answer", "label", "answerKey"}
    assert found <= {*columns, "choices"} or name == "mmlu"


def test_only_what_asks_is_changed(plan):
    original = plan(CHOICE, num_fewshot=1)
    changed = perturbed(original, "loud", upper)
    assert changed is not None
    for old, new in zip(original.parts[0].questions, changed.parts[0].questions):
        assert new.item.values["question"] == old.item.values["question"].upper()
        assert {**new.item.values, "question": ""} == {**old.item.values, "question": ""}
        assert new.preamble == old.preamble and "is it" in new.preamble
        assert (new.item.origin, new.item.task) == (old.item.origin, old.item.task)


def test_signatures(plan):
    original = plan(CHOICE)
    loud, louder = perturbed(original, "loud", upper), perturbed(original, "loud", lambda text, _: text.upper() + "!")
    assert loud is not None and louder is not None
    assert loud.name == f"{original.name}~loud" and loud.signature.startswith(f"{loud.name}|version:1|")
    assert len({original.signature, loud.signature, louder.signature}) == 3
    again = perturbed(original, "loud", upper)
    assert again is not None and again.signature == loud.signature


def test_a_change_that_changes_nothing_is_the_task_itself(plan):
    original = plan(CHOICE)
    assert perturbed(original, "none", lambda text, _: text) is original
    assert perturbed(plan(LAST_WORD), "loud", upper) is None


def test_draws_belong_to_the_text(plan):
    """An item is changed alike whatever stands around it, and otherwise with another seed."""

    def drawn(text: str, random: Random) -> str:
        return f"{text} {random.random()}"

    def texts(found: runner.Plan | None) -> list[str]:
        assert found is not None
        return [question.item.values["question"] for part in found.parts for question in part.questions]

    original = plan(CHOICE)
    part = original.parts[0]
    fewer = replace(original, parts=[replace(part, questions=part.questions[1:])])
    assert texts(perturbed(original, "x", drawn))[1:] == texts(perturbed(fewer, "x", drawn))
    assert texts(perturbed(original, "x", drawn)) != texts(perturbed(original, "x", drawn, seed=1))
    assert len(set(texts(perturbed(original, "x", drawn)))) == 3


def test_variants_number_their_questions(plan):
    found = variant(plan(CHOICE), "named", lambda question, number: replace(question, lead=f"{number}. "))
    assert [question.preamble for question in found.parts[0].questions] == ["0. ", "1. ", "2. "]
