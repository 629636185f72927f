"""Templates and expressions: what they make of an item, and what they can't do."""

from __future__ import annotations

import pytest

from posttrain.bench.item import Expression, Item, Template
from posttrain.core.errors import BadRequest
from posttrain.core.settings import Settings

ITEM = Item({"question": {"stem": "Why?"}, "choices": [{"text": "a"}, {"text": "b"}], "n": "2"}, "f.jsonl:3", "t.yaml")


class Made(Settings):
    """Holds one of each."""

    text: Template = "x"
    """A template."""

    value: Expression = "1"
    """An expression."""


def test_texts_and_values():
    assert ITEM.text("Q: {{ question.stem }}\n", "prompt") == "Q: Why?\n"
    assert ITEM.value("choices | map(attribute='text')", "choices") == ["a", "b"]
    assert ITEM.value("n | int - 1", "answer") == 1
    assert ITEM.value("choices[0].text == 'a'", "keep") is True


def test_replacing_by_a_pattern():
    """Brackets and what they hold go, shortest first."""
    item = Item({"text": "a [b] c [d]"}, "f:1", "t.yaml")
    assert item.text(r"{{ text | regex_replace('\\[.*?\\]', '') }}", "prompt") == "a  c "


@pytest.mark.parametrize(
    ("template", "what"),
    [
        ("{{ stem }}", "UndefinedError: 'stem' is undefined"),
        ("{{ question.text }}", "UndefinedError: 'dict object' has no attribute 'text'"),
        ("{{ n + 1 }}", "TypeError"),
        ("{{ ''.__class__.__mro__ }}", "SecurityError"),
        ("{{ choices.append(1) }}", "SecurityError"),
        ("{{ n.format.__globals__ }}", "SecurityError"),
    ],
)
def test_what_fails_names_task_key_and_item(template, what):
    with pytest.raises(BadRequest) as raised:
        ITEM.text(template, "prompt")
    assert raised.value.problem.startswith("t.yaml: 'prompt' doesn't work for f.jsonl:3: ")
    assert what in raised.value.problem
    assert raised.value.suggestion == "The item has: question, choices, n."


def test_an_unknown_name_is_no_value():
    with pytest.raises(BadRequest, match=r"'answer' doesn't work for f.jsonl:3: UndefinedError: 'label' is undefined"):
        ITEM.value("label", "answer")
    with pytest.raises(BadRequest, match="UndefinedError"):
        ITEM.value("choices | map(attribute='txet') | map('upper')", "choices")


@pytest.mark.parametrize(("key", "source"), [("text", "{{ question"), ("value", "question +"), ("text", "{% for %}")])
def test_what_isnt_a_template_is_refused_at_once(key, source):
    with pytest.raises(BadRequest, match=f"'{key}' doesn't fit: not a template"):
        Made.parse({key: source})


def value(expression, **values):
    return Item(values, "f:1", "t.yaml").value(expression, "fields.x")


@pytest.mark.parametrize("label", [1, "1", True, "yes"])
def test_a_class_by_number_or_name(label):
    assert value("label | class_number(['no', 'yes'])", label=label) == 1


@pytest.mark.parametrize(
    ("expression", "label", "sentence"),
    [
        ("label | class_number(['no', 'yes'])", "maybe", "invalid literal"),
        ("label | class_number(['no', 'yes'])", -1, "-1 is none of the classes no, yes"),
        ("label | int", "entailment", "invalid literal for int"),  # Jinja's own filter would say 0
    ],
)
def test_what_is_no_number_is_refused(expression, label, sentence):
    with pytest.raises(BadRequest, match=f"'fields.x' doesn't work for f:1: ValueError: .*{sentence}"):
        value(expression, label=label)


def test_each_element_of_a_list():
    assert value("names | each('query.replace(\"@\", it)')", names=["a", "b"], query="x@y") == ["xay", "xby"]
    assert value("[1, 2] | each('it + n') | each('it * 2')", n=1) == [4, 6]
    with pytest.raises(BadRequest, match="'that' is undefined"):
        value("[1] | each('that')")
    with pytest.raises(BadRequest, match="SecurityError"):
        value("[1] | each('it.__class__.__mro__')")


def test_answers_compared_as_in_squad():
    """`the red cat` and `a red dog` share one of two words each."""
    assert value("a | token_f1(b)", a="the red cat", b="A red dog!") == 0.5
    assert value("a | normalized", a="The  Red cat!") == "red cat"
