"""The same items asked differently: a prepared task with its questions changed, for robustness and fairness.

Only what asks is changed. A column of an item that also makes the choices or the right answer stays as it is, and so do
the words of the template around it and the solved examples (as Liang et al., 2022, "Holistic Evaluation of Language
Models", perturb the instance and not the prompt).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from random import Random
from typing import Any

from jinja2 import Environment, nodes

from posttrain.bench.item import Item
from posttrain.bench.question import Question
from posttrain.bench.runner import Plan
from posttrain.bench.source import content
from posttrain.bench.task_types import TaskType
from posttrain.core.settings import fingerprint

# Keys of task types: what asks, a template or several, and what answers. Where contexts are what is chosen from, the
# text that they share with what follows them asks.
_PROMPT, _CONTEXTS, _FOLLOWING = "prompt", "contexts", "continuation"
_ANSWERS = ("choices", "answer", "labels", _FOLLOWING)
# With one of these the answer is an expression that points at it, otherwise a template.
_CHOOSING = ("choices", _CONTEXTS)

_parser = Environment()  # never renders anything


def variant(plan: Plan, name: str, change: Callable[[Question, int], Question]) -> Plan:
    """A task with other questions.

    Args:
        plan: What `posttrain.bench.runner.prepare` returned.
        name: What makes it different; joined to the task's name, and part of the signature.
        change: Makes the new question of an old one and its number, counted from 0 over all parts.
    """
    parts, number = [], 0
    for part in plan.parts:
        questions = [change(question, number + place) for place, question in enumerate(part.questions)]
        parts.append(replace(part, questions=questions))
        number += len(questions)
    asked = [[content([question.item]), question.preamble] for part in parts for question in part.questions]
    selection = replace(plan.selection, name=f"{plan.name}~{name}")
    return replace(plan, selection=selection, parts=parts, data=fingerprint([plan.data, asked]))


def perturbed(plan: Plan, name: str, apply: Callable[[str, Random], str], seed: int = 0) -> Plan | None:
    """A task whose items ask in changed words.

    Args:
        plan: What `posttrain.bench.runner.prepare` returned.
        name: Of the change.
        apply: Changes a text; draws come from the generator it gets. Each text has a generator of its own, so an item
            is changed alike whatever other items there are.
        seed: Of the draws.

    Returns:
        The changed task; the task itself if no text changes; None if no column asks without answering too.
    """
    columns = asking_columns(plan.selection.type)
    questions = [question for part in plan.parts for question in part.questions]
    if not any(isinstance(questions[0].item.values.get(column), str) for column in columns):
        return None

    def change(question: Question) -> Question:
        values: Mapping[str, Any] = question.item.values
        new = {
            column: apply(text, Random(f"{seed}/{name}/{column}/{text}"))
            for column in sorted(columns)
            if isinstance(text := values.get(column), str)
        }
        return replace(question, item=Item({**values, **new}, question.item.origin, question.item.task))

    changed = [change(question) for question in questions]
    if changed == questions:
        return plan
    return variant(plan, name, lambda _, number: changed[number])


def asking_columns(type_: TaskType) -> set[str]:
    """The columns that a type's prompt is made of, less those that make its choices or right answer."""
    asked, answers = getattr(type_, _PROMPT, None), list(_ANSWERS)
    if asked is None:
        if not hasattr(type_, _CONTEXTS):
            return set()
        asked = getattr(type_, _FOLLOWING)
        answers.remove(_FOLLOWING)
    kept: set[str] = set()
    for key in answers:
        value = getattr(type_, key, None)
        if isinstance(value, str):
            expression = key != _FOLLOWING and any(hasattr(type_, each) for each in _CHOOSING)
            kept |= _names_in(f"{{{{ {value} }}}}" if expression else value)
        elif isinstance(value, list):
            kept |= set().union(*(_names_in(template) for template in value))
    return _names_in(asked) - kept


def _names_in(template: str) -> set[str]:
    """The columns that a template is made of."""
    return {node.name for node in _parser.parse(template).find_all(nodes.Name)}
